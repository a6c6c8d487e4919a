"""The options of the main job, by subject, and what they make: a RunConfig."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from inventory_enqueue.cli.types import (
    ChangesType,
    DayType,
    DurationType,
    LocationType,
    MessageGroupsType,
    MomentType,
    NamesType,
    SizeType,
)
from inventory_enqueue.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_MEMORY,
    MAX_CONCURRENCY,
    MAX_RECORDS_PER_MESSAGE,
    MIN_MEMORY,
    AwsSettings,
    EventTime,
    FirstRun,
    JsonLinesFile,
    LatestDelivery,
    Locking,
    MessageFormat,
    OnLate,
    RunConfig,
    Sending,
    SendTransport,
    SinkConfig,
    Sizes,
    SqsQueue,
    StandardOutput,
    Verify,
)
from inventory_enqueue.delivery.events import manifest_of_event
from inventory_enqueue.filters import Filters, Pattern
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.uris import Location, parse_location


def default_state() -> Path:
    """Where the state is, unless --state says otherwise: as the XDG base directories have it."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "inventory-enqueue"


def _names(choices: type[StrEnum]) -> click.Choice[str]:
    return click.Choice([choice.value for choice in choices])


_FOLDER: Final = click.Path(file_okay=False, path_type=Path)

_SOURCE: Final = [
    click.option(
        "--manifest",
        metavar="URI",
        help="manifest.json, its checksum or its folder, s3://… or a path; - reads the event for it from stdin.",
    ),
    click.option("--inventory", type=LocationType(), help="An inventory's folder: takes the newest complete delivery."),
    click.option("--date", type=DayType(), help="With --inventory: the newest complete one of this UTC day."),
    click.option("--max-inventory-age", type=DurationType(), help="Refuse an older delivery, such as 36h."),
    click.option("--wait", type=DurationType(), default="0", help="Wait so long for the delivery to be complete."),
    click.option("--previous", type=LocationType(), help="Manifest to compare with, instead of the baseline."),
    click.option("--replay", is_flag=True, help="Send all that the filters admit; leave the baseline as it is."),
    click.option(
        "--known", type=LocationType(), help="Keys not to send: a .parquet, .csv or .jsonl file, or a manifest."
    ),
]
_SINK: Final = [
    click.option("--queue-url", help="URL of the SQS queue."),
    click.option("--output", metavar="FILE", help="Append messages to FILE as JSON Lines instead; - for stdout."),
    click.option(
        "--message-format",
        type=_names(MessageFormat),
        default=MessageFormat.S3_EVENT.value,
        show_default=True,
        help="Shape of the messages.",
    ),
    click.option(
        "--event-time",
        type=_names(EventTime),
        default=EventTime.LAST_MODIFIED.value,
        show_default=True,
        help="Time in s3-event and eventbridge messages: the object's, or the run's.",
    ),
    click.option(
        "--message-group-id",
        type=MessageGroupsType(),
        metavar="ID|hash:N",
        help="MessageGroupId: one for all, or N by a hash of the key (default: hash:64 for a FIFO queue, else none).",
    ),
    click.option("--source-region", help="awsRegion in the messages (default: the bucket's)."),
]
STATE: Final = click.option(
    "--state",
    type=LocationType(),
    default=default_state,
    show_default="XDG state folder",
    help="What was sent: a folder, or s3://bucket/prefix/.",
)
LOCKING: Final = [
    click.option(
        "--lock-wait", type=DurationType(), help="Wait so long for another run of the pipeline (default: one lease)."
    ),
    click.option(
        "--lease",
        type=DurationType(),
        default="60s",
        show_default=True,
        help="With a state in S3: a dead holder keeps the lock so long.",
    ),
]
_STATE: Final = [
    STATE,
    click.option("--pipeline", help="Name in the state (default: derived from bucket and sink)."),
    click.option(
        "--first-run", type=_names(FirstRun), help="Without a baseline: record the delivery only, or send all of it."
    ),
    click.option("--abandon", is_flag=True, help="Give an unfinished run up; what it sent may be sent again."),
    click.option(
        "--keep-runs",
        type=click.IntRange(min=1),
        default=30,
        show_default=True,
        help="Ended runs whose files stay in the state.",
    ),
    click.option(
        "--checkpoint-interval",
        type=DurationType(),
        default="5s",
        show_default=True,
        help="What was acknowledged is made durable so often.",
    ),
]
_CHANGES: Final = [
    click.option(
        "--changes", type=ChangesType(), default="new", show_default=True, help="Comma list: new, changed, deleted."
    ),
    click.option(
        "--on-late",
        type=_names(OnLate),
        default=OnLate.SEND.value,
        show_default=True,
        help="Keys that reappear: send them, or write them to late.jsonl (report: with a warning).",
    ),
    click.option("--send-admitted", is_flag=True, help="Also known keys that only a changed filter admits."),
]
VERSIONS: Final = [
    click.option(
        "--versions",
        type=_names(Versions),
        default=Versions.CURRENT.value,
        show_default=True,
        help="Live objects by key, or every version by key and version.",
    ),
]
FILTERS: Final = [
    click.option("--prefix", default="", help="Only keys that begin so."),
    click.option("--suffix", default="", help="Only keys that end so."),
    click.option(
        "--include", metavar="GLOB", multiple=True, help="Keys that match; `*` matches `/`, the last match wins."
    ),
    click.option("--exclude", metavar="GLOB", multiple=True, help="Not keys that match; in order with --include."),
    click.option("--min-size", type=SizeType(), help="Only objects of at least this size."),
    click.option("--max-size", type=SizeType(), help="Only objects of at most this size."),
    click.option("--modified-after", type=MomentType(), help="Only objects modified after this date or age (36h)."),
    click.option("--modified-before", type=MomentType(), help="Only objects modified before this date or age (1d)."),
    click.option("--storage-class", type=NamesType(), default=(), metavar="LIST", help="Only these classes."),
    click.option("--exclude-storage-class", type=NamesType(), default=(), metavar="LIST", help="Not these classes."),
    click.option("--include-archived", is_flag=True, help="Also objects that must be restored to be read."),
]
_GUARDS: Final = [
    click.option(
        "--max-shrink",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="Refuse a delivery that lacks a larger share of the baseline's objects.",
    ),
    click.option(
        "--max-quarantined",
        type=click.FloatRange(0, 1),
        default=0.001,
        show_default=True,
        help="Refuse a delivery of which a larger share of rows can't be trusted.",
    ),
    click.option(
        "--max-new-ratio",
        type=click.FloatRange(min=0),
        default=0.5,
        show_default=True,
        help="Refuse to send more than this share of the baseline's objects, where it is above 10,000.",
    ),
    click.option("--dry-run", "-n", is_flag=True, help="Show what would be sent; touch neither queue nor state."),
]
SENDING: Final = [
    click.option(
        "--concurrency",
        type=click.IntRange(1, MAX_CONCURRENCY),
        default=DEFAULT_CONCURRENCY,
        show_default=True,
        help="SQS requests in flight, at most: it starts with 8 and adapts.",
    ),
    click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Messages a second, at most."),
    click.option(
        "--pause-above",
        type=click.IntRange(min=0),
        metavar="N",
        help="Send nothing while more than N messages wait in the queue.",
    ),
    click.option(
        "--verify",
        type=_names(Verify),
        default=Verify.MD5.value,
        show_default=True,
        help="Check each message's MD5 in SQS's answers, or only that all are in them.",
    ),
    click.option(
        "--transport", type=_names(SendTransport), help="How SQS is reached (default: curl, else boto3: slower)."
    ),
    click.option(
        "--grace",
        type=DurationType(),
        default="10s",
        show_default=True,
        help="When stopped, wait so long for answers that are due.",
    ),
]
_LIMITS: Final = [
    click.option(
        "--records-per-message",
        type=click.IntRange(1, MAX_RECORDS_PER_MESSAGE),
        default=1,
        show_default=True,
        help="Records in an s3-event message, at most, and up to 64 KB: cheaper, for consumers that take several.",
    ),
    click.option("--max-messages", type=click.IntRange(min=1), help="Stop after so many; the next run goes on."),
    click.option("--max-duration", type=DurationType(), help="Stop after this time; the next run goes on."),
]
RESOURCES: Final = [
    click.option("--memory", type=SizeType(), default=DEFAULT_MEMORY, show_default="1GiB", help="Memory budget."),
    click.option("--work-dir", type=_FOLDER, help="Scratch space (default: XDG cache folder)."),
]
SQS: Final = [
    click.option("--sqs-endpoint-url", help="Endpoint of SQS."),
    click.option("--sqs-region", help="Region of the queue."),
]
S3: Final = [
    click.option("--profile", help="AWS profile."),
    click.option("--region", help="AWS region."),
    click.option("--endpoint-url", help="Endpoint of S3 and SQS."),
    click.option("--s3-endpoint-url", help="Endpoint of S3."),
    click.option("--no-sign-request", is_flag=True, help="Read S3 without credentials: public buckets."),
    click.option("--request-payer", type=click.Choice(["requester"]), help="Pay for the requests to S3."),
    click.option("--expected-bucket-owner", metavar="ACCOUNT", help="The account that must own the buckets read."),
]
_OUTPUT: Final = [
    click.option("--json", is_flag=True, help="Print the report as one JSON object on stdout."),
    click.option("--quiet", "-q", is_flag=True, help="Warnings and errors only."),
    click.option("--verbose", "-v", is_flag=True, help="More about what is done."),
]


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def with_options(*groups: Sequence[Decorator]) -> Decorator:
    """Gives a command groups of options."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


run_options: Final = with_options(
    _SOURCE, _SINK, _STATE, LOCKING, _CHANGES, VERSIONS, FILTERS, _GUARDS, SENDING, _LIMITS, RESOURCES, S3, SQS, _OUTPUT
)
"""Gives a command all options of the main job."""


class OrderedPatterns(click.Command):
    """A command that keeps the order of --include and --exclude, in its context's obj."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments."""
        ctx.obj = patterns_in_order(self, ctx, args)
        return super().parse_args(ctx, args)


def patterns_in_order(command: click.Command, context: click.Context, args: list[str]) -> tuple[Pattern, ...]:
    """The --include and --exclude of a command line, in their order, which click's values lose."""
    values, _, order = command.make_parser(context).parse_args(args=list(args))
    left = {name: iter(values.get(name) or ()) for name in ("include", "exclude")}
    return tuple(
        Pattern(next(left[parameter.name]), include=parameter.name == "include")
        for parameter in order
        if parameter.name in left
    )


def run_config(options: dict[str, Any], patterns: tuple[Pattern, ...]) -> RunConfig:
    """What the options ask for.

    Args:
        options: click's values.
        patterns: The --include and --exclude, in order.

    Raises:
        click.UsageError: They contradict each other, or one is missing.
    """
    source, sink = _source(options), _sink(options)
    if isinstance(sink, StandardOutput) and options["json"]:
        raise click.UsageError("--json and --output - both need standard output: write the messages to a file")
    try:
        return RunConfig(
            manifest=source,
            max_inventory_age=options["max_inventory_age"],
            wait=options["wait"],
            sink=sink,
            state=options["state"],
            previous=options["previous"],
            pipeline=options["pipeline"],
            first_run=None if options["first_run"] is None else FirstRun(options["first_run"]),
            replay=options["replay"],
            known=options["known"],
            on_late=OnLate(options["on_late"]),
            changes=options["changes"],
            filters=filters(options, patterns),
            send_admitted=options["send_admitted"],
            versions=Versions(options["versions"]),
            max_shrink=options["max_shrink"],
            max_quarantined=options["max_quarantined"],
            message_format=MessageFormat(options["message_format"]),
            event_time=EventTime(options["event_time"]),
            source_region=options["source_region"],
            max_new_ratio=options["max_new_ratio"],
            dry_run=options["dry_run"],
            abandon=options["abandon"],
            max_messages=options["max_messages"],
            max_duration=options["max_duration"],
            grace=options["grace"].total_seconds(),
            command=shlex.join(["inventory-enqueue", *sys.argv[1:]]),
            keep_runs=options["keep_runs"],
            locking=locking(options),
            message_groups=options["message_group_id"],
            sending=sending(options),
            work_dir=options["work_dir"],
            sizes=sizes(options),
            aws=aws(options),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def sending(options: dict[str, Any]) -> Sending:
    """How messages are sent, by the options of SENDING and, where a command has them, those of the main job."""
    return Sending(
        concurrency=options["concurrency"],
        rate=options["rate"],
        pause_above=options["pause_above"],
        records_per_message=options.get("records_per_message", 1),
        transport=None if options["transport"] is None else SendTransport(options["transport"]),
        verify=Verify(options["verify"]),
        checkpoint_interval=options.get("checkpoint_interval", _NO_CHECKPOINTS).total_seconds(),
    )


_NO_CHECKPOINTS: Final = timedelta(days=1)


def locking(options: dict[str, Any]) -> Locking:
    """How long to wait for the lock, by the options of LOCKING.

    Raises:
        ValueError: A value is out of its range.
    """
    patience = options["lock_wait"]
    return Locking(options["lease"].total_seconds(), None if patience is None else patience.total_seconds())


def sizes(options: dict[str, Any]) -> Sizes:
    """The sizes of the work within --memory.

    Raises:
        click.UsageError: It is too small.
    """
    if options["memory"] < MIN_MEMORY:
        raise click.UsageError(f"--memory: at least {MIN_MEMORY // 1024**2}MiB are needed")
    return Sizes.within(options["memory"])


def filters(options: dict[str, Any], patterns: tuple[Pattern, ...]) -> Filters:
    """The filters that the options of FILTERS ask for, with the --include and --exclude in order."""
    # Those of the environment have no order among each other: excludes decide.
    given = {pattern.glob for pattern in patterns}
    includes = tuple(Pattern(glob, include=True) for glob in options["include"] if glob not in given)
    excludes = tuple(Pattern(glob, include=False) for glob in options["exclude"] if glob not in given)
    return Filters(
        prefix=options["prefix"],
        suffix=options["suffix"],
        patterns=includes + excludes + patterns,
        min_size=options["min_size"],
        max_size=options["max_size"],
        modified_after=options["modified_after"],
        modified_before=options["modified_before"],
        storage_classes=options["storage_class"],
        exclude_storage_classes=options["exclude_storage_class"],
        include_archived=options["include_archived"],
    )


def _source(options: dict[str, Any]) -> Location | LatestDelivery:
    manifest, inventory = options["manifest"], options["inventory"]
    if (manifest is None) == (inventory is None):
        raise click.UsageError("name one of --manifest (a delivery) and --inventory (the newest under a folder)")
    if inventory is not None:
        return LatestDelivery(inventory, options["date"])
    if options["date"] is not None:
        raise click.UsageError("--date chooses among the deliveries under --inventory; --manifest names one already")
    try:
        if manifest == "-":
            return manifest_of_event(sys.stdin.buffer.read().decode(errors="replace"))
        return parse_location(manifest)
    except ValueError as error:
        raise click.UsageError(f"--manifest: {error}") from error


def _sink(options: dict[str, Any]) -> SinkConfig:
    queue_url, output = options["queue_url"], options["output"]
    if (queue_url is None) == (output is None):
        raise click.UsageError("name one of --queue-url and --output: where the messages go")
    if output is None:
        try:
            return SqsQueue(queue_url)
        except ValueError as error:
            raise click.UsageError(f"--queue-url: {error}") from error
    return StandardOutput() if output == "-" else JsonLinesFile(Path(output).absolute())


def aws(options: dict[str, Any]) -> AwsSettings:
    """How AWS is reached, by the options of S3 and, where a command has them, of SQS."""
    return AwsSettings(
        profile=options["profile"],
        region=options["region"],
        s3_endpoint_url=options["s3_endpoint_url"] or options["endpoint_url"],
        sqs_endpoint_url=options.get("sqs_endpoint_url") or options["endpoint_url"],
        sqs_region=options.get("sqs_region"),
        no_sign_request=options["no_sign_request"],
        request_payer=options["request_payer"] is not None,
        expected_bucket_owner=options["expected_bucket_owner"],
    )
