"""What the verbs that look at a pipeline's state have in common."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from inventory_enqueue.cli.options import STATE, aws
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.state import disk_errors_stop, made_work_dir, opened_state, pipeline_named
from inventory_enqueue.store import Store

PIPELINE: Final = (
    STATE,
    click.option("--pipeline", help="Name in the state; needed where there are several."),
)


@contextmanager
def chosen_pipeline(options: dict[str, Any]) -> Iterator[tuple[Store, str]]:
    """The pipeline that the options of PIPELINE name: its files in the state, and its name.

    Raises:
        InventoryEnqueueError: There is none, or the state can't be read.
    """
    work_dir = made_work_dir(options["work_dir"])
    with (
        disk_errors_stop(work_dir),
        opened_state(options["state"], aws(options), work_dir, checkpoint_interval=1) as state,
    ):
        name = pipeline_named(state, options["pipeline"])
        yield state.at(name), name


@contextmanager
def errors_told() -> Iterator[None]:
    """Prints an error of ours and exits with its code."""
    try:
        yield
    except InventoryEnqueueError as error:
        click.echo(f"inventory-enqueue: {error}", err=True)
        sys.exit(error.exit_code)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
