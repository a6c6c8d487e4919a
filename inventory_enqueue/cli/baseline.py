"""`baseline`: what a pipeline compares with: shown, set to another delivery, or dropped."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from inventory_enqueue.cli.options import (
    FILTERS,
    RESOURCES,
    S3,
    VERSIONS,
    OrderedPatterns,
    aws,
    default_state,
    filters,
    sizes,
    with_options,
)
from inventory_enqueue.cli.text import set_up_logging
from inventory_enqueue.cli.types import LocationType
from inventory_enqueue.config import FirstRun, RunConfig, StandardOutput
from inventory_enqueue.errors import InventoryEnqueueError, InventoryUnavailableError
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.ledger import Ledger, read_baseline
from inventory_enqueue.pipeline import refuse_unfinished, set_baseline
from inventory_enqueue.report import RunReport
from inventory_enqueue.store import LocalStore

_PIPELINE = (
    click.option(
        "--state",
        type=click.Path(file_okay=False, path_type=Path),
        default=default_state,
        show_default="XDG state folder",
        help="The state.",
    ),
    click.option("--pipeline", help="Name in the state; needed where there are several."),
)
_FROM_ENVIRONMENT = {"auto_envvar_prefix": "INVENTORY_ENQUEUE"}


@click.group()
def baseline() -> None:
    """Show, set or drop what a pipeline compares the next delivery with."""


@baseline.command(context_settings=_FROM_ENVIRONMENT)
@with_options(_PIPELINE)
@click.option("--json", "as_json", is_flag=True, help="Print baseline.json.")
def show(*, state: Path, pipeline: str | None, as_json: bool) -> None:
    """Show the delivery that was committed last."""
    with _errors_told():
        folder = _pipeline(state, pipeline)
        committed = read_baseline(LocalStore(folder))
        if committed is None:
            raise InventoryUnavailableError("this pipeline has no baseline", where=str(folder))
        document = committed.to_json()
    if as_json:
        click.echo(json.dumps(document))
        return
    click.echo(f"pipeline   {folder.name}")
    click.echo(f"delivery   {document['manifest_uri']} of {document['creation_timestamp']}")
    click.echo(f"bucket     {document['source_bucket']}, {committed.identities:,} keys")
    click.echo(f"committed  {document['committed']} by run {committed.run_id}")


@baseline.command("set", cls=OrderedPatterns, context_settings=_FROM_ENVIRONMENT)
@click.argument("uri", type=LocationType())
@with_options(_PIPELINE, VERSIONS, FILTERS, RESOURCES, S3)
@click.pass_context
def set_(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Make the delivery URI the baseline, whatever it was before; nothing is sent.

    Name the filters that the pipeline runs with: a key that they don't admit isn't known as sent.
    """
    set_up_logging(quiet=False, verbose=False)
    with _errors_told():
        name = options["pipeline"] or _pipeline(options["state"], None).name
        config = RunConfig(
            manifest=options["uri"],
            sink=StandardOutput(),
            state=options["state"],
            pipeline=name,
            first_run=FirstRun.SEED,
            versions=Versions(options["versions"]),
            filters=filters(options, context.obj),
            source_region="",
            work_dir=options["work_dir"],
            sizes=sizes(options),
            aws=aws(options),
        )
        report = set_baseline(config, RunReport())
    click.echo(f"the baseline of {name} is {options['uri']}: {report.counts['listed']:,} rows listed", err=True)


@baseline.command(context_settings=_FROM_ENVIRONMENT)
@with_options(_PIPELINE)
@click.confirmation_option(prompt="The next run then needs --first-run. Drop the baseline?")
def drop(*, state: Path, pipeline: str | None) -> None:
    """Forget what was committed; the next run needs --first-run. Runs and their failures stay."""
    with _errors_told():
        folder = _pipeline(state, pipeline)
        with Ledger.opened(folder, folder.name) as ledger:
            refuse_unfinished(ledger)
            ledger.drop_baseline()
    click.echo(f"the baseline of {folder.name} is dropped", err=True)


def _pipeline(state: Path, name: str | None) -> Path:
    """The folder of the pipeline that is meant.

    Raises:
        InventoryUnavailableError: There is none, or there are several and none was named.
    """
    if name is not None:
        if name not in LocalStore(state).names("") or not (state / name).is_dir():
            raise InventoryUnavailableError(f"there is no pipeline {name!r}", where=str(state))
        return state.absolute() / name
    names = [found for found in LocalStore(state).names("") if (state / found).is_dir()]
    if len(names) != 1:
        there_are = f"there are several pipelines ({', '.join(names)})" if names else "there is no pipeline"
        raise InventoryUnavailableError(f"{there_are}: name one by --pipeline", where=str(state))
    return state.absolute() / names[0]


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except InventoryEnqueueError as error:
        click.echo(f"inventory-enqueue: {error}", err=True)
        sys.exit(error.exit_code)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
