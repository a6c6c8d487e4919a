"""`baseline`: what a pipeline compares with: shown, set to another delivery, or dropped."""

import json
import sys
from typing import Any

import click

from inventory_enqueue.cli.options import (
    FILTERS,
    LOCKING,
    RESOURCES,
    S3,
    VERSIONS,
    OrderedPatterns,
    aws,
    filters,
    locking,
    sizes,
    with_options,
)
from inventory_enqueue.cli.state import PIPELINE, chosen_pipeline, errors_told
from inventory_enqueue.cli.text import set_up_logging
from inventory_enqueue.cli.types import LocationType
from inventory_enqueue.config import FirstRun, RunConfig, StandardOutput
from inventory_enqueue.errors import InventoryUnavailableError
from inventory_enqueue.fingerprints import Versions
from inventory_enqueue.ledger import Ledger, read_baseline
from inventory_enqueue.pipeline import refuse_unfinished, set_baseline
from inventory_enqueue.report import RunReport

_FROM_ENVIRONMENT = {"auto_envvar_prefix": "INVENTORY_ENQUEUE"}


@click.group()
def baseline() -> None:
    """Show, set or drop what a pipeline compares the next delivery with."""


@baseline.command(context_settings=_FROM_ENVIRONMENT)
@with_options(PIPELINE, RESOURCES[1:], S3)
@click.option("--json", "as_json", is_flag=True, help="Print baseline.json.")
def show(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Show the delivery that was committed last."""
    with errors_told(), chosen_pipeline(options) as (store, name):
        committed = read_baseline(store)
        if committed is None:
            raise InventoryUnavailableError("this pipeline has no baseline", where=store.where())
        document = committed.to_json()
    if as_json:
        click.echo(json.dumps(document))
        return
    click.echo(f"pipeline   {name}")
    click.echo(f"delivery   {document['manifest_uri']} of {document['creation_timestamp']}")
    click.echo(f"bucket     {document['source_bucket']}, {committed.identities:,} keys")
    click.echo(f"committed  {document['committed']} by run {committed.run_id}")


@baseline.command("set", cls=OrderedPatterns, context_settings=_FROM_ENVIRONMENT)
@click.argument("uri", type=LocationType())
@with_options(PIPELINE, LOCKING, VERSIONS, FILTERS, RESOURCES, S3)
@click.pass_context
def set_(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Make the delivery URI the baseline, whatever it was before; nothing is sent.

    Name the filters that the pipeline runs with: a key that they don't admit isn't known as sent.
    """
    set_up_logging(quiet=False, verbose=False)
    with errors_told():
        name = options["pipeline"]
        if name is None:
            with chosen_pipeline(options) as (_, name):
                pass
        config = RunConfig(
            manifest=options["uri"],
            sink=StandardOutput(),
            state=options["state"],
            pipeline=name,
            first_run=FirstRun.SEED,
            versions=Versions(options["versions"]),
            filters=filters(options, context.obj),
            locking=locking(options),
            source_region="",
            work_dir=options["work_dir"],
            sizes=sizes(options),
            aws=aws(options),
        )
        report = set_baseline(config, RunReport())
    click.echo(f"the baseline of {name} is {options['uri']}: {report.counts['listed']:,} rows listed", err=True)


@baseline.command(context_settings=_FROM_ENVIRONMENT)
@with_options(PIPELINE, LOCKING, RESOURCES[1:], S3)
@click.confirmation_option(prompt="The next run then needs --first-run. Drop the baseline?")
def drop(**options: Any) -> None:  # noqa: ANN401 - click's values
    """Forget what was committed; the next run needs --first-run. Runs and their failures stay."""
    with (
        errors_told(),
        chosen_pipeline(options) as (store, name),
        Ledger.opened(store, name, locking(options), keep_runs=sys.maxsize) as ledger,
    ):
        refuse_unfinished(ledger)
        ledger.drop_baseline()
    click.echo(f"the baseline of {name} is dropped", err=True)
