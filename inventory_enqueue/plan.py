"""How a run's work is cut into tasks. Pure."""

from dataclasses import dataclass
from typing import Any

from inventory_enqueue.config import Change
from inventory_enqueue.fingerprints import CONTENT_COLUMNS, Scheme
from inventory_enqueue.report import Stage


@dataclass(frozen=True)
class Plan:
    """How the work is cut into tasks. An index task and an enqueue task take one batch, a diff task one partition."""

    scheme: Scheme
    partition_bits: int
    batches: tuple[tuple[int, ...], ...]
    """Numbers of the current delivery's files."""
    previous_batches: tuple[tuple[int, ...], ...] = ()
    """Numbers of the previous delivery's files."""
    known_batches: tuple[tuple[int, ...], ...] = ()
    """Numbers of the files of known keys."""
    indexes_previous: bool = False
    """Whether the index stage reads the previous delivery, too: there is no index of it."""
    recalls: frozenset[Change] = frozenset()
    """Of which changes the previous delivery's rows are read back."""
    content_columns: tuple[str, ...] = CONTENT_COLUMNS
    """What f looks at: less than all where the previous delivery and the current one don't both have it."""

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return 1 << self.partition_bits

    def tasks(self, stage: Stage) -> int:
        """Number of tasks of a stage.

        Index tasks past the current batches are those of the previous delivery, then those of the known keys. Enqueue
        tasks past the current batches send what is gone since the previous delivery.
        """
        match stage:
            case Stage.INDEX:
                return self.known_tasks.stop
            case Stage.DIFF:
                return self.partitions
            case Stage.RECALL:
                return len(self.previous_batches) if self.recalls else 0
            case Stage.ENQUEUE:
                return len(self.batches) + (len(self.previous_batches) if Change.DELETED in self.recalls else 0)

    @property
    def previous_tasks(self) -> range:
        """The index tasks that read the previous delivery."""
        first = len(self.batches)
        return range(first, first + len(self.previous_batches) * self.indexes_previous)

    @property
    def known_tasks(self) -> range:
        """The index tasks that read known keys."""
        first = self.previous_tasks.stop
        return range(first, first + len(self.known_batches))

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return {
            "scheme": self.scheme.to_json(),
            "partition_bits": self.partition_bits,
            "batches": self.batches,
            "previous_batches": self.previous_batches,
            "known_batches": self.known_batches,
            "indexes_previous": self.indexes_previous,
            "recalls": sorted(self.recalls),
            "content_columns": self.content_columns,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], *, where: str) -> "Plan":
        """Reads what to_json wrote."""

        def batches(name: str) -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(batch) for batch in document[name])

        return cls(
            scheme=Scheme.from_json(document["scheme"], where=where),
            partition_bits=document["partition_bits"],
            batches=batches("batches"),
            previous_batches=batches("previous_batches"),
            known_batches=batches("known_batches"),
            indexes_previous=document["indexes_previous"],
            recalls=frozenset(Change(name) for name in document["recalls"]),
            content_columns=tuple(document["content_columns"]),
        )
