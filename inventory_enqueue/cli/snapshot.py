"""`snapshot`: a prefix listed live into a delivery."""

import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import polars as pl

from inventory_enqueue.aws.list_objects import open_bucket
from inventory_enqueue.cli.options import RESOURCES, S3, aws, with_options
from inventory_enqueue.cli.state import errors_told
from inventory_enqueue.cli.text import set_up_logging
from inventory_enqueue.cli.types import LocationType
from inventory_enqueue.config import MAX_CONCURRENCY, AwsSettings
from inventory_enqueue.delivery.listing import CONCURRENCY, Lister
from inventory_enqueue.delivery.snapshot import SnapshotWriter, write_snapshot
from inventory_enqueue.delivery.writing import InventoryConfig
from inventory_enqueue.state import disk_errors_stop, made_work_dir
from inventory_enqueue.stores import open_store
from inventory_enqueue.uris import Location, S3Url
from inventory_enqueue.watch import Watch

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""As inventory configurations are named, and no more: it becomes a folder's name."""


@click.command(context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE"})
@click.argument("url", metavar="s3://BUCKET/PREFIX", type=LocationType())
@click.option("--to", "target", type=LocationType(), required=True, help="Folder or s3://… that gets the delivery.")
@click.option("--id", "config_id", default="live", show_default=True, help="The delivery's folder: TO/BUCKET/ID/.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CONCURRENCY),
    default=CONCURRENCY,
    show_default=True,
    help="Requests in flight, at most.",
)
@click.option("--page-by-page", is_flag=True, help="One request after the other: for stores that list in no order.")
@with_options(RESOURCES[1:], S3)
def snapshot(
    *,
    url: Location,
    target: Location,
    config_id: str,
    concurrency: int,
    page_by_page: bool,
    **options: Any,  # noqa: ANN401 - click's values
) -> None:
    """List s3://BUCKET/PREFIX now, into a delivery of S3 Inventory's own form.

    The delivery can be read by --manifest and --inventory, compared by `diff`, and read by any tool that reads S3
    Inventory. It holds what was there when the command began; what came or went while it ran may be in it or not.
    """
    set_up_logging(quiet=False, verbose=False)
    if not isinstance(url, S3Url):
        raise click.UsageError("what is listed is a bucket, or a prefix in one: s3://BUCKET/PREFIX")
    if not _ID.fullmatch(config_id):
        raise click.UsageError("--id: up to 64 letters, digits, dots, hyphens and underscores were expected")
    settings = aws(options)
    work_dir = made_work_dir(options["work_dir"])
    with errors_told(), disk_errors_stop(work_dir), tempfile.TemporaryDirectory(dir=work_dir) as scratch:
        writer = _writer(url.bucket, target, config_id, settings, Path(scratch))
        source = open_bucket(settings, url.bucket, connections=concurrency)
        lister = Lister(source, url, watch=Watch(), concurrency=concurrency, page_by_page=page_by_page)
        write_snapshot(writer, _frames(lister))
    counts = lister.counts
    click.echo(f"{lister.keys:,} keys in {counts['requests']:,} requests: {writer.manifest}", err=True)


def _writer(bucket: str, target: Location, config_id: str, settings: AwsSettings, scratch: Path) -> SnapshotWriter:
    target = target.absolute() if isinstance(target, Path) else target
    destination, prefix = (target.bucket, target.key.rstrip("/")) if isinstance(target, S3Url) else ("local", "")
    config = InventoryConfig(bucket, destination, prefix, config_id)
    return SnapshotWriter(open_store(target, settings, scratch), config, datetime.now(tz=UTC))


def _frames(lister: Lister) -> Iterator[pl.DataFrame]:
    for batch in lister.batches():
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow's type also covers a single column
        yield frame
