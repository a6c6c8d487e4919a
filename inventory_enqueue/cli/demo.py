"""`inventory-enqueue demo`."""

import sys
from pathlib import Path

import click

from inventory_enqueue.demo.bucket import MAX_OBJECTS
from inventory_enqueue.demo.run import run_demo


@click.command()
@click.option(
    "--objects",
    type=click.IntRange(1000, MAX_OBJECTS),
    default=1_000_000,
    show_default=True,
    help="Objects in the synthetic bucket.",
)
@click.option(
    "--work-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Empty folder to keep deliveries, state and server data in (default: a temporary one, removed at the end).",
)
def demo(objects: int, work_dir: Path | None) -> None:
    """Run the main job on two days of a synthetic bucket, against an S3 and SQS server that is started for it."""
    sys.exit(run_demo(objects, work_dir, click.echo))
