"""Where messages go: one contract, and what fulfils it."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from inventory_enqueue.batching import BatchLimits, MessageBatch, Messages
from inventory_enqueue.errors import InventoryEnqueueError


@dataclass(frozen=True)
class Refusal:
    """A message that the sink will never take."""

    position: int
    """Of the entry in its batch."""
    code: str
    message: str
    sender_fault: bool = True


class BatchResult(NamedTuple):
    """The answer to one request, entry by entry: each position of the batch is in exactly one of the three."""

    sent: tuple[int, ...] = ()
    """Accepted by the sink."""
    refused: tuple[Refusal, ...] = ()
    retry: tuple[int, ...] = ()
    """Neither accepted nor refused for good; or nobody knows, since the answer was lost."""
    reason: str = ""
    """Why entries are to be sent again."""
    apart: bool = False
    """Whether they are to be sent again one by one: the request was refused for one of them, and nobody said which."""
    throttled: bool = False
    fatal: InventoryEnqueueError | None = None
    """The sink refuses every request: permission, or it doesn't exist; or it can't take anything now."""
    began: float = 0.0
    """In seconds of time.monotonic()."""
    seconds: float = 0.0
    """That the request took."""


class Sink(Protocol):
    """Takes requests and answers them in any order; used by one thread at a time."""

    @property
    def limits(self) -> BatchLimits:
        """What a request can hold."""

    def prepare(self, messages: Messages) -> None:
        """Does what can be done for messages before they are sent: called by another thread."""

    def begin(self, batch: MessageBatch) -> None:
        """Begins a request."""

    def finished(self, timeout: float) -> list[tuple[MessageBatch, BatchResult]]:
        """Waits until requests are answered.

        Args:
            timeout: Seconds, at most.

        Returns:
            Those that were; none after the timeout.
        """

    def close(self) -> None:
        """Ends it."""
