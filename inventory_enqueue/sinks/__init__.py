"""Where messages go: one contract, and what fulfils it."""

from dataclasses import dataclass
from typing import Protocol

from inventory_enqueue.batching import BatchLimits, MessageBatch


@dataclass(frozen=True)
class Refusal:
    """A message that the sink will never take."""

    position: int
    """Of the entry in its batch."""
    code: str
    message: str
    sender_fault: bool = True


@dataclass(frozen=True)
class BatchResult:
    """The answer to one request, entry by entry: each position of the batch is in exactly one of the three."""

    sent: tuple[int, ...] = ()
    """Accepted by the sink."""
    refused: tuple[Refusal, ...] = ()
    retry: tuple[int, ...] = ()
    """Neither accepted nor refused for good; or nobody knows, since the answer was lost."""
    reason: str = ""
    """Why entries are to be sent again."""
    throttled: bool = False
    requests: int = 1


class Sink(Protocol):
    """Takes batches from several threads at once."""

    @property
    def limits(self) -> BatchLimits:
        """What a request can hold."""

    def send(self, batch: MessageBatch) -> BatchResult:
        """Makes one request.

        Raises:
            PreflightError: The sink refuses every request: permission, or it doesn't exist.
            StoppedError: The sink can't take anything now, and no retry in this run will help.
        """

    def close(self) -> None:
        """Ends it."""
