"""`runs`: the history of a pipeline, and how to go on with what is unfinished."""

import json
import shlex
from typing import Any, Final

import click

from inventory_enqueue.cli.options import RESOURCES, S3, with_options
from inventory_enqueue.cli.state import PIPELINE, chosen_pipeline, errors_told
from inventory_enqueue.cli.text import table
from inventory_enqueue.history import PastRun
from inventory_enqueue.history import runs as past_runs
from inventory_enqueue.report import iso

_HEADINGS: Final = ("run", "begun", "status", "listed", "new", "sent", "failed", "seconds", "delivery")
_ALIGNMENTS: Final = (str.ljust, str.ljust, str.ljust, *[str.rjust] * 5, str.ljust)


@click.command(context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE"})
@with_options(PIPELINE, RESOURCES[1:], S3)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array on standard output.")
def runs(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's values
    """List the runs of a pipeline, the last one first, and the command that goes on with an unfinished one."""
    with errors_told(), chosen_pipeline(options) as (store, _):
        found = list(past_runs(store))
    if as_json:
        click.echo(json.dumps([run.to_json() for run in found], indent=1))
        return
    click.echo(table([_HEADINGS, *map(_row, found)], _ALIGNMENTS))
    for run in found:
        if run.failures_file is not None:
            click.echo(f"\n{run.run_id} left {run.failed:,} messages that can be sent again:")
            click.echo(f"  inventory-enqueue resend {shlex.quote(run.failures_file)} --queue-url URL")
        if run.resume is not None:
            click.echo(f"\n{run.run_id} is unfinished; the same command goes on with it:\n  {run.resume}")


def _row(run: PastRun) -> tuple[str, ...]:
    numbers = (run.listed, run.new, run.sent, run.failed)
    return (
        run.run_id,
        iso(run.created),
        run.status,
        *("-" if number is None else f"{number:,}" for number in numbers),
        "-" if run.seconds is None else f"{run.seconds:,.1f}",
        run.manifest,
    )
