"""Hands each new object of an S3 bucket once to the workers of an SQS queue, from S3 Inventory deliveries."""

import os

# polars' allocator gives memory back to the system half a second after it was used, and a run takes it again at once: a
# tenth of its CPU time went into that. It also has four arenas a core, each of which keeps for itself what it freed: of
# one a core, less is kept and more used again. It is read when polars is imported.
os.environ.setdefault(
    "_RJEM_MALLOC_CONF",
    f"background_thread:true,narenas:{os.cpu_count() or 1},dirty_decay_ms:5000,muzzy_decay_ms:0",
)

from inventory_enqueue.config import RunConfig
from inventory_enqueue.pipeline import run
from inventory_enqueue.report import RunReport
from inventory_enqueue.version import __version__

__all__ = ["RunConfig", "RunReport", "__version__", "run"]
