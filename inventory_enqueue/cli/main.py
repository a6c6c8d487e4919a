"""`inventory-enqueue`: the main job, and the verbs beside it."""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import click

from inventory_enqueue.cli.demo import demo
from inventory_enqueue.cli.text import summary
from inventory_enqueue.config import (
    DEFAULT_CONCURRENCY,
    MAX_CONCURRENCY,
    AwsSettings,
    Change,
    FirstRun,
    JsonLinesFile,
    MessageFormat,
    RunConfig,
    SinkConfig,
    SqsQueue,
    StandardOutput,
)
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.filters import Filters
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from inventory_enqueue.uris import Location, parse_location
from inventory_enqueue.version import __version__

INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: it ends a run as Ctrl-C does."""


class LocationType(click.ParamType[Location]):
    """An s3:// URL or a local path."""

    name = "uri"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:  # noqa: ANN401 - click's signature
        """Parses it."""
        try:
            return parse_location(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ChangesType(click.ParamType[frozenset[Change]]):
    """A comma list of changes."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[Change]:  # noqa: ANN401 - click's signature
        """Parses it."""
        if isinstance(value, frozenset):
            return value
        try:
            return frozenset(Change(name.strip()) for name in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: a comma list of {', '.join(Change)} was expected", param, ctx)


def _default_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "inventory-enqueue"


@click.group(
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE", "help_option_names": ["-h", "--help"]},
)
@click.option("--manifest", type=LocationType(), help="manifest.json of the delivery, s3://… or a local path.")
@click.option("--queue-url", help="URL of the SQS queue.")
@click.option(
    "--output", metavar="FILE", help="Append the messages to FILE as JSON Lines instead; - for standard output."
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_state,
    show_default="XDG state folder",
    help="Folder of the state.",
)
@click.option("--pipeline", help="Name of the pipeline in the state (default: derived from bucket and sink).")
@click.option(
    "--first-run",
    type=click.Choice([choice.value for choice in FirstRun]),
    help="Without a baseline: record the delivery only, or send all of it.",
)
@click.option("--previous", type=LocationType(), help="Manifest to compare with, instead of the baseline.")
@click.option(
    "--changes", type=ChangesType(), default="new", show_default=True, help="What is sent: comma list of new, changed."
)
@click.option(
    "--versions",
    type=click.Choice([choice.value for choice in Versions]),
    default=Versions.CURRENT.value,
    show_default=True,
    help="Live objects by key, or every version by key and version.",
)
@click.option(
    "--include-archived", is_flag=True, help="Also send objects that must be restored before they can be read."
)
@click.option("--send-admitted", is_flag=True, help="Also send known keys that only a changed filter admits.")
@click.option(
    "--message-format",
    type=click.Choice([choice.value for choice in MessageFormat]),
    default=MessageFormat.S3_EVENT.value,
    show_default=True,
    help="Shape of the messages.",
)
@click.option("--source-region", help="awsRegion in the messages (default: the bucket's).")
@click.option(
    "--max-shrink",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Refuse a delivery that lacks a larger share of the baseline's objects.",
)
@click.option(
    "--max-quarantined",
    type=click.FloatRange(0, 1),
    default=0.001,
    show_default=True,
    help="Refuse a delivery of which a larger share of rows can't be trusted.",
)
@click.option("--dry-run", "-n", is_flag=True, help="Show what would be sent; touch neither queue nor state.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CONCURRENCY),
    default=DEFAULT_CONCURRENCY,
    show_default=True,
    help="SQS requests in flight.",
)
@click.option(
    "--work-dir", type=click.Path(file_okay=False, path_type=Path), help="Scratch space (default: XDG cache folder)."
)
@click.option("--profile", help="AWS profile.")
@click.option("--region", help="AWS region.")
@click.option("--endpoint-url", help="Endpoint of S3 and SQS.")
@click.option("--s3-endpoint-url", help="Endpoint of S3.")
@click.option("--sqs-endpoint-url", help="Endpoint of SQS.")
@click.option("--sqs-region", help="Region of the queue.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="Warnings and errors only.")
@click.option("--verbose", "-v", is_flag=True, help="More about what is done.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Hand each new object of an S3 bucket once to an SQS queue, from S3 Inventory deliveries.

    The daily run:

      inventory-enqueue --manifest s3://DEST/PREFIX/BUCKET/CONFIG/DATE/manifest.json --queue-url URL
    """
    if context.invoked_subcommand is not None:
        return
    _set_up_logging(quiet=options["quiet"], verbose=options["verbose"])
    config = _config(options)
    _run_and_exit(config, as_json=options["as_json"], quiet=options["quiet"])


cli.add_command(demo)


def main() -> NoReturn:
    """The console script."""
    # Importing polars replaces Python's SIGINT handler by one that restarts system calls: a wait would outlast Ctrl-C.
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003 - its parameters have no names
    signal.signal(signal.SIGTERM, _terminate)
    cli(prog_name="inventory-enqueue")
    sys.exit(0)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _config(options: dict[str, Any]) -> RunConfig:
    if options["manifest"] is None:
        raise click.UsageError("--manifest is needed: the manifest.json of the delivery")
    sink = _sink(options)
    if isinstance(sink, StandardOutput) and options["as_json"]:
        raise click.UsageError("--json and --output - both need standard output: write the messages to a file")
    try:
        return RunConfig(
            manifest=options["manifest"],
            sink=sink,
            state=options["state"],
            previous=options["previous"],
            pipeline=options["pipeline"],
            first_run=None if options["first_run"] is None else FirstRun(options["first_run"]),
            changes=options["changes"],
            filters=Filters(include_archived=options["include_archived"]),
            send_admitted=options["send_admitted"],
            versions=Versions(options["versions"]),
            max_shrink=options["max_shrink"],
            max_quarantined=options["max_quarantined"],
            message_format=MessageFormat(options["message_format"]),
            source_region=options["source_region"],
            dry_run=options["dry_run"],
            concurrency=options["concurrency"],
            work_dir=options["work_dir"],
            aws=AwsSettings(
                profile=options["profile"],
                region=options["region"],
                s3_endpoint_url=options["s3_endpoint_url"] or options["endpoint_url"],
                sqs_endpoint_url=options["sqs_endpoint_url"] or options["endpoint_url"],
                sqs_region=options["sqs_region"],
            ),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _sink(options: dict[str, Any]) -> SinkConfig:
    queue_url, output = options["queue_url"], options["output"]
    if (queue_url is None) == (output is None):
        raise click.UsageError("name one of --queue-url and --output: where the messages go")
    if output is None:
        return SqsQueue(queue_url)
    return StandardOutput() if output == "-" else JsonLinesFile(Path(output).absolute())


def _run_and_exit(config: RunConfig, *, as_json: bool, quiet: bool) -> NoReturn:
    report = RunReport()
    try:
        run(config, report)
    except InventoryEnqueueError as error:
        report.fail(error)
        click.echo(f"inventory-enqueue: {error}", err=True)
    except KeyboardInterrupt as signalled:
        report.interrupt(TERMINATED if isinstance(signalled, Terminated) else INTERRUPTED)
        click.echo("inventory-enqueue: interrupted; the same command goes on where it stopped", err=True)
    document = report.to_json()
    if as_json:
        click.echo(json.dumps(document))
    elif not quiet:
        click.echo(summary(document), err=isinstance(config.sink, StandardOutput))
    sys.exit(report.exit_code)


def _set_up_logging(*, quiet: bool, verbose: bool) -> None:
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("inventory_enqueue").setLevel(level)
