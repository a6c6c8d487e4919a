"""The delivery that was committed last, as baseline.json holds it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from inventory_enqueue.report import iso

_MOMENTS: Final = ("committed", "creation_timestamp", "filtered_at")


@dataclass(frozen=True)
class Baseline:
    """baseline.json: the delivery that was committed last, and its index."""

    run_id: str
    committed: datetime
    manifest_uri: str
    manifest_md5: str
    creation_timestamp: datetime
    source_bucket: str
    scope: Mapping[str, str | None]
    """What the index holds: prefix, of the bucket's keys; versions, what an identity is; inventory_id and
    inventory_prefix, the inventory's configuration and its filter, null where they couldn't be known."""
    filters: Mapping[str, Any]
    filtered_at: datetime
    """What the ages in the filters were counted back from."""
    identities: int
    kind: str
    """How the delivery was found: manifest or inventory."""

    @property
    def index(self) -> str:
        """The index's folder in the state, under the pipeline."""
        return index_folder(self.run_id)

    def to_json(self) -> dict[str, Any]:
        """As baseline.json and run.json hold it."""
        return {**asdict(self), **{name: iso(getattr(self, name)) for name in _MOMENTS}}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Baseline":
        """Reads what to_json wrote.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        values = {name: document[name] for name in cls.__dataclass_fields__}
        for name in _MOMENTS:
            values[name] = datetime.fromisoformat(values[name])
        if not isinstance(values["identities"], int):
            raise TypeError("identities is no number")
        return cls(**values)


def index_folder(run_id: str) -> str:
    """The folder of the index that a run makes, under the pipeline's: it counts once baseline.json points to it."""
    return f"indexes/{run_id}"
