"""How a delivery, a baseline and counts stand in the report of --json."""

from collections import Counter
from datetime import UTC, datetime

from inventory_enqueue.baseline import Baseline
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.report import iso
from inventory_enqueue.run import Delivery

_COUNTS = (
    "listed",
    "not_live",
    "duplicates",
    "unchanged",
    "new",
    "changed",
    "newly_admitted",
    "deleted",
    "excluded",
    "deleted_gone",
    "quarantined",
    "known",
    "selected",
)
_FILTERED = "filtered_"


def source(delivery: Delivery, kind: str) -> dict[str, object]:
    """The delivery that is read.

    Args:
        delivery: The delivery.
        kind: How it was found: manifest or inventory.
    """
    return _described(delivery.manifest, str(delivery.location), kind)


def baseline(committed: Baseline | None, manifest: Manifest | None) -> dict[str, object] | None:
    """The delivery that was committed last, with its own manifest; or null."""
    if committed is None or manifest is None:
        return None
    return {
        **_described(manifest, committed.manifest_uri, committed.kind),
        "run_id": committed.run_id,
        "keys": committed.identities,
    }


def counts(counted: Counter[str]) -> dict[str, object]:
    """What the index and diff tasks counted."""
    return {
        **{name: counted[name] for name in _COUNTS},
        "archived": counted[f"{_FILTERED}archived"],
        # Of the rows listed, by the first condition of the filters that each failed.
        "filtered": {
            name.removeprefix(_FILTERED): number for name, number in counted.items() if name.startswith(_FILTERED)
        },
        "reappeared": 0,
    }


def sent(counted: Counter[str]) -> dict[str, object]:
    """What the enqueue tasks counted."""
    names = {
        "keys": "sent",
        "messages": "messages",
        "requests": "requests",
        "billed_requests": "billed",
        "retries": "retries",
        "throttled": "throttled",
    }
    return {
        **{name: counted[count] for name, count in names.items()},
        "failed": counted["failed"],
        "failures_file": None,
        "late": counted["late"],
        "late_file": None,
    }


def _described(manifest: Manifest, uri: str, kind: str) -> dict[str, object]:
    age = datetime.now(tz=UTC) - manifest.creation_timestamp
    return {
        "kind": kind,
        "manifest": uri,
        "manifest_md5": manifest.md5,
        "created": iso(manifest.creation_timestamp),
        "age_s": round(age.total_seconds()),
        "bucket": manifest.source_bucket,
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
    }
