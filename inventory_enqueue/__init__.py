"""Hands each new object of an S3 bucket once to the workers of an SQS queue, from S3 Inventory deliveries."""

import os

# polars' allocator gives memory back to the system half a second after it was used, and a run takes it again at once: a
# tenth of its CPU time went into that. It is read when polars is imported.
os.environ.setdefault("_RJEM_MALLOC_CONF", "background_thread:true,dirty_decay_ms:3000,muzzy_decay_ms:0")

from inventory_enqueue.config import RunConfig
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from inventory_enqueue.version import __version__

__all__ = ["RunConfig", "RunReport", "__version__", "run"]
