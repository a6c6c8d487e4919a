"""`resend`: a failures file, sent again."""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from inventory_enqueue.cli import signals
from inventory_enqueue.cli.options import RESOURCES, S3, SENDING, SQS, aws, sending, with_options
from inventory_enqueue.cli.state import errors_told
from inventory_enqueue.cli.text import set_up_logging
from inventory_enqueue.cli.types import LocationType
from inventory_enqueue.config import SqsQueue
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.execution import UNDELIVERABLE
from inventory_enqueue.resend import resend as send_again
from inventory_enqueue.state import disk_errors_stop, made_work_dir
from inventory_enqueue.uris import Location, S3Url
from inventory_enqueue.watch import Watch


@click.command(context_settings={"auto_envvar_prefix": "INVENTORY_ENQUEUE"})
@click.argument("failures", type=LocationType())
@click.option("--queue-url", required=True, help="URL of the SQS queue.")
@click.option(
    "--still-failing",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What fails again (default: FAILURES.again; of a file in S3, in this folder).",
)
@with_options(SENDING, RESOURCES[1:], SQS, S3)
def resend(*, failures: Location, queue_url: str, still_failing: Path | None, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Send the messages of FAILURES again: a run's failures.jsonl or late.jsonl.

    What fails again is written in the same form, and the exit code is 4. FAILURES itself stays as it is: a command that
    is stopped sends all of it again.
    """
    set_up_logging(quiet=False, verbose=False)
    settings = aws(options)
    with (
        errors_told(),
        disk_errors_stop(Path()),
        tempfile.TemporaryDirectory(dir=made_work_dir(options["work_dir"])) as copy,
    ):
        with closing(Landing(settings, Path(copy))) as landing:
            file = landing.fetch(failures)
        again = still_failing or _beside(failures)
        if again.exists() and again.samefile(file):
            raise click.UsageError("--still-failing names FAILURES itself, which stays as it is: name another file")
        watch = Watch(grace=options["grace"].total_seconds())
        queue, how = SqsQueue(queue_url), sending(options)
        # In a thread, since a signal raises in this one: so the answers that are due are waited for.
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send_again, file, again, queue=queue, aws=settings, sending=how, watch=watch)
            try:
                counts = sent.result()
            except KeyboardInterrupt as signalled:
                watch.stop()
                sent.exception()
                click.echo("inventory-enqueue: interrupted; the same command sends all of it again", err=True)
                sys.exit(signals.exit_code(signalled))
    click.echo(f"{counts['sent']:,} messages sent, {counts['failed']:,} failed again", err=True)
    if counts["failed"]:
        click.echo(f"those are in {again}", err=True)
        sys.exit(UNDELIVERABLE)


def _beside(failures: Location) -> Path:
    if isinstance(failures, S3Url):
        return Path(f"{failures.key.rpartition('/')[2]}.again")
    return failures.with_name(f"{failures.name}.again")
