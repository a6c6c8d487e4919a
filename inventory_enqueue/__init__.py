"""Hands each new object of an S3 bucket once to the workers of an SQS queue, from S3 Inventory deliveries."""

from inventory_enqueue.config import RunConfig
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from inventory_enqueue.version import __version__

__all__ = ["RunConfig", "RunReport", "__version__", "run"]
