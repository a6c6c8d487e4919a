"""`inventory-enqueue`: the main job, and the verbs beside it."""

import gc
import json
import sys
import traceback
from typing import Any, NoReturn

import click

from inventory_enqueue.cli import signals
from inventory_enqueue.cli.baseline import baseline
from inventory_enqueue.cli.demo import demo
from inventory_enqueue.cli.diff import diff
from inventory_enqueue.cli.inventories import inventories
from inventory_enqueue.cli.options import OrderedPatterns, run_config, run_options
from inventory_enqueue.cli.resend import resend
from inventory_enqueue.cli.runs import runs
from inventory_enqueue.cli.snapshot import snapshot
from inventory_enqueue.cli.text import set_up_logging, summary
from inventory_enqueue.config import RunConfig, StandardOutput
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from inventory_enqueue.version import __version__


class _Group(OrderedPatterns, click.Group):
    """Ends with the signal's exit code, where click would end with 1."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Invokes the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as signalled:
            sys.exit(signals.exit_code(signalled))


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE", "help_option_names": ["-h", "--help"]},
)
@run_options
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Hand each new object of an S3 bucket once to an SQS queue, from S3 Inventory deliveries.

    The daily run:

      inventory-enqueue --inventory s3://DEST/PREFIX/BUCKET/CONFIG/ --queue-url URL
    """
    if context.invoked_subcommand is not None:
        return
    set_up_logging(quiet=options["quiet"], verbose=options["verbose"])
    _run_and_exit(run_config(options, context.obj), as_json=options["json"], quiet=options["quiet"])


cli.add_command(baseline)
cli.add_command(demo)
cli.add_command(diff)
cli.add_command(inventories)
cli.add_command(resend)
cli.add_command(runs)
cli.add_command(snapshot)


def main() -> NoReturn:
    """The console script."""
    signals.listen()
    # What is imported stays, and rows are no cycles: the collector needn't look at either again and again.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    cli(prog_name="inventory-enqueue")
    sys.exit(0)


def _run_and_exit(config: RunConfig, *, as_json: bool, quiet: bool) -> NoReturn:
    report = RunReport()
    try:
        run(config, report)
    except InventoryEnqueueError as error:
        report.fail(error)
        click.echo(f"inventory-enqueue: {error}", err=True)
    except KeyboardInterrupt as signalled:
        report.interrupt(signals.exit_code(signalled))
        click.echo("inventory-enqueue: interrupted; the same command goes on where it stopped", err=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the report is printed; the traceback says what it was
        report.crash(error)
        traceback.print_exc()
    document = report.to_json()
    if as_json:
        click.echo(json.dumps(document))
    elif not quiet:
        click.echo(summary(document), err=isinstance(config.sink, StandardOutput))
    sys.exit(report.exit_code)
