"""ORC data files, streamed by stripe."""

import importlib.resources
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.orc

from inventory_enqueue.delivery.formats import BATCH_ROWS, unique

_SYSTEM_ZONES: Final = Path("/usr/share/zoneinfo")


class OrcSource:
    """An open ORC file. A stripe is decoded whole: AWS's hold 64 MB."""

    keys_are_encoded = False

    def __init__(self, path: Path) -> None:
        """Opens the file and reads its footer."""
        _provide_time_zones()
        self._opened = pa.OSFile(str(path), "rb")
        try:
            self._file = pyarrow.orc.ORCFile(self._opened)
            self.columns = unique(self._file.schema.names, source="its footer")
        except BaseException:
            self._opened.close()
            raise
        self.rows = self._file.nrows

    def batches(self, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Streams these columns, stripe by stripe."""
        for number in range(self._file.nstripes):
            stripe = self._file.read_stripe(number, columns=list(columns))
            for start in range(0, stripe.num_rows, BATCH_ROWS):
                yield stripe.slice(start, BATCH_ROWS)

    def __enter__(self) -> Self:
        """The file, open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._opened.close()


def _provide_time_zones() -> None:
    """Points the ORC library to the tzdata package where the system has no time zones, as in slim containers.

    It wants them to read timestamps, although these are in UTC.
    """
    if "TZDIR" not in os.environ and not (_SYSTEM_ZONES / "UTC").exists():
        os.environ["TZDIR"] = str(importlib.resources.files("tzdata") / "zoneinfo")
