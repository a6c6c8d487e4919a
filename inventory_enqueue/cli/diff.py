"""`diff`: what changed between two deliveries, with neither a queue nor a state."""

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Final

import click
import polars as pl

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
from inventory_enqueue.cli.text import set_up_logging, table
from inventory_enqueue.cli.types import ChangesType, LocationType
from inventory_enqueue.comparing import changes
from inventory_enqueue.config import Change, RunConfig, StandardOutput
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.filters import Filters, Pattern
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.pipeline import begin_job
from inventory_enqueue.report import RunReport

_KINDS: Final = tuple(Change)
_MEMBERS: Final = ("change", "bucket", "key", "version_id", "size", "e_tag", "last_modified", "previous")


@click.command(
    cls=OrderedPatterns,
    context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE"},
)
@click.argument("old", type=LocationType())
@click.argument("new", type=LocationType())
@click.option(
    "--changes", type=ChangesType(), default=",".join(Change), show_default=True, help="Comma list: which ones."
)
@click.option("--summary", is_flag=True, help="Count them by prefix instead of naming them.")
@click.option("--depth", type=click.IntRange(min=0), default=1, show_default=True, help="Parts of a prefix.")
@click.option("--top", type=click.IntRange(min=1), default=50, show_default=True, help="Prefixes that are named.")
@click.option("--json", is_flag=True, help="With --summary: all prefixes, as JSON Lines.")
@click.option("--quiet", "-q", is_flag=True, help="Warnings and errors only.")
@click.option("--verbose", "-v", is_flag=True, help="More about what is done.")
@with_options(VERSIONS, FILTERS, RESOURCES, S3)
@click.pass_context
def diff(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Print what changed from the delivery OLD to the delivery NEW, a JSON object a line.

    change, bucket, key, version_id, size, e_tag, last_modified, and previous: of a changed object what it was before.
    """
    set_up_logging(quiet=options["quiet"], verbose=options["verbose"])
    report = RunReport()
    try:
        with closing(_changes(options, context.obj, report)) as frames:
            if options["summary"]:
                _print_summary(frames, options)
            else:
                for bucket, frame in frames:
                    sys.stdout.buffer.write(_lines(bucket, frame))
                sys.stdout.buffer.flush()
    except InventoryEnqueueError as error:
        click.echo(f"inventory-enqueue: {error}", err=True)
        sys.exit(error.exit_code)
    if not options["quiet"]:
        counts = ", ".join(f"{report.counts[kind]:,} {kind}" for kind in _KINDS)
        click.echo(f"{counts}, {report.counts['unchanged']:,} unchanged", err=True)


def _changes(
    options: dict[str, Any], patterns: tuple[Pattern, ...], report: RunReport
) -> Generator[tuple[str, pl.DataFrame], None, None]:
    """The bucket, and frames of comparing.changes."""
    config = RunConfig(
        manifest=options["new"],
        previous=options["old"],
        sink=StandardOutput(),
        state=default_state(),
        changes=options["changes"],
        tells_previous_values=True,
        versions=Versions(options["versions"]),
        filters=_filters(options, patterns),
        # A comparison that somebody asked for is no surprise, and nothing is sent.
        max_shrink=1,
        # Its messages would say it; there are none.
        source_region="",
        dry_run=True,
        work_dir=options["work_dir"],
        sizes=sizes(options),
        aws=aws(options),
    )
    with begin_job(config) as job:
        for frame in changes(job, report):
            yield job.delivery.manifest.source_bucket, frame


def _filters(options: dict[str, Any], patterns: tuple[Pattern, ...]) -> Filters:
    """Archived objects are objects: only who sends leaves them out by default."""
    return filters({**options, "include_archived": True}, patterns)


def _lines(bucket: str, frame: pl.DataFrame) -> bytes:
    """A frame as JSON Lines."""
    before = pl.struct(
        size="previous_size", e_tag="previous_e_tag", last_modified=_iso(pl.col("previous_last_modified_date"))
    )
    named = frame.with_columns(
        bucket=pl.lit(bucket),
        last_modified=_iso(pl.col("last_modified_date")),
        previous=pl.when(pl.col("change") == Change.CHANGED).then(before),
    )
    return named.select(_MEMBERS).write_ndjson().encode()


def _iso(moment: pl.Expr) -> pl.Expr:
    return moment.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")


def _print_summary(frames: Iterator[tuple[str, pl.DataFrame]], options: dict[str, Any]) -> None:
    counted = _counted((frame for _, frame in frames), options["depth"])
    if options["json"]:
        click.echo(counted.write_ndjson(), nl=False)
        return
    top, rest = counted.head(options["top"]), counted.slice(options["top"])
    rows = [_row(_visible(prefix) or "(no prefix)", numbers) for prefix, *numbers in top.iter_rows()]
    if not rest.is_empty():
        rows.append(_row(f"({rest.height:,} others)", rest.drop("prefix").sum().row(0)))
    rows.append(_row("(all)", counted.drop("prefix").sum().row(0)))
    headings = ("prefix", *_KINDS, "bytes new", "bytes deleted")
    click.echo(table([headings, *rows], [str.ljust, *[str.rjust] * (len(headings) - 1)]))


def _counted(frames: Iterator[pl.DataFrame], depth: int) -> pl.DataFrame:
    """Numbers of changes and bytes by prefix, those with the most changes first: a row a prefix is held."""
    prefix = pl.col("key").str.extract(f"^((?:[^/]*/){{0,{min(depth, 1024)}}})")
    size = pl.col("size").fill_null(0)
    is_kind = {kind: pl.col("change") == kind for kind in _KINDS}
    sums = {
        **{str(kind): condition.sum() for kind, condition in is_kind.items()},
        "new_bytes": size.filter(is_kind[Change.NEW]).sum(),
        "deleted_bytes": size.filter(is_kind[Change.DELETED]).sum(),
    }
    schema = {"prefix": pl.String} | dict.fromkeys(sums, pl.Int64)
    total = pl.DataFrame(schema=schema)
    for frame in frames:
        part = frame.group_by(prefix.alias("prefix")).agg(**sums).cast(schema)  # type: ignore[arg-type]  # the stubs want literals
        total = pl.concat([total, part]).group_by("prefix").agg(pl.all().sum())
    changes_of = pl.sum_horizontal([str(kind) for kind in _KINDS])
    return total.sort(-changes_of, "prefix")


def _row(name: str, numbers: Iterable[int]) -> tuple[str, ...]:
    return (name, *(f"{number:,}" for number in numbers))


def _visible(text: str) -> str:
    """A prefix without what would do things to a terminal."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
