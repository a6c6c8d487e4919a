"""`inventory-enqueue inventories`."""

import json
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from inventory_enqueue.cli.text import table
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.delivery.finding import DeliveryInfo, duration_text, label_text, list_deliveries
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import InventoryEnqueueError
from inventory_enqueue.uris import Location, parse_location

_HEADINGS = ("date", "age", "format", "files", "bytes", "complete")
_ALIGNMENTS = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.ljust)


def _location(_context: click.Context, _parameter: click.Parameter, value: str) -> Location:
    try:
        return parse_location(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("uri", callback=_location)
@click.option(
    "--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Look into this many, the newest."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array on standard output.")
@click.option("--profile", envvar="INVENTORY_ENQUEUE_PROFILE", help="AWS profile.")
@click.option("--region", envvar="INVENTORY_ENQUEUE_REGION", help="AWS region.")
@click.option("--endpoint-url", envvar="INVENTORY_ENQUEUE_ENDPOINT_URL", help="Endpoint of S3.")
@click.option("--s3-endpoint-url", envvar="INVENTORY_ENQUEUE_S3_ENDPOINT_URL", help="The same; goes before it.")
def inventories(  # noqa: PLR0913 - one argument an option
    *,
    uri: Location,
    limit: int,
    as_json: bool,
    profile: str | None,
    region: str | None,
    endpoint_url: str | None,
    s3_endpoint_url: str | None,
) -> None:
    """List the deliveries under URI, an inventory configuration's folder: s3://DEST/PREFIX/BUCKET/CONFIG/ or a path."""
    settings = AwsSettings(profile=profile, region=region, s3_endpoint_url=s3_endpoint_url or endpoint_url)
    # Manifests are read into memory: nothing is written to the scratch folder.
    with closing(Landing(settings, Path(tempfile.gettempdir()))) as landing:
        try:
            deliveries, older = list_deliveries(landing, uri, limit=limit, now=datetime.now(tz=UTC))
        except InventoryEnqueueError as error:
            click.echo(f"inventory-enqueue: {error}", err=True)
            sys.exit(error.exit_code)
    if as_json:
        click.echo(json.dumps([delivery.to_json() for delivery in deliveries], indent=1))
    else:
        click.echo(_table(deliveries))
    if older:
        click.echo(f"and {older:,} older: --limit {limit + older} lists them, too", err=True)


def _table(deliveries: list[DeliveryInfo]) -> str:
    return table([_HEADINGS, *(_row(delivery) for delivery in deliveries)], _ALIGNMENTS)


def _row(delivery: DeliveryInfo) -> tuple[str, ...]:
    return (
        label_text(delivery.label),
        duration_text(delivery.age),
        delivery.file_format or "-",
        _number(delivery.files),
        _number(delivery.total_bytes),
        "yes" if delivery.reason is None else f"no: {delivery.reason}",
    )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
