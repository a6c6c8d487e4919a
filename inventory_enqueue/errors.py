"""The exception tree: each error says where and what to do, and carries the exit code of the command line.

InventoryEnqueueError            1  unexpected
├── PreflightError               3  credentials, permission or configuration
├── LockedError                  5  another run holds the pipeline's lock
├── InventoryUnavailableError    6  inventory missing, incomplete or too old; or the baseline's data gone
├── IntegrityError               7  checksum, schema, truncation, counts that don't reconcile
├── StoppedError                 8  stopped before the commit; the same command resumes
└── RefusedError                 9  a guard refused; nothing was sent
"""

from typing import ClassVar


class InventoryEnqueueError(Exception):
    """Any error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None) -> None:
        """Makes the error.

        Args:
            message: What happened and what to do, for a reader who never saw the code.
            where: The URI, path or name that it is about.
        """
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where

    @property
    def kind(self) -> str:
        """The name of its class in the tree above: those that only refine one of them go by its name in reports."""
        return next(cls.__name__ for cls in type(self).__mro__ if "exit_code" in vars(cls))


class PreflightError(InventoryEnqueueError):
    """Credentials, a permission or the configuration keeps the run from starting or going on."""

    exit_code = 3


class LockedError(InventoryEnqueueError):
    """Another run of the same pipeline is under way."""

    exit_code = 5


class LockLostError(LockedError):
    """The lock was held, and isn't any more, or nobody can tell: what this process still does must not count."""


class InventoryUnavailableError(InventoryEnqueueError):
    """The delivery is missing or incomplete, or the baseline's data are gone."""

    exit_code = 6


class IntegrityError(InventoryEnqueueError):
    """Bytes, a schema or counts aren't what they must be."""

    exit_code = 7


class DataFileGoneError(IntegrityError):
    """A data file that a manifest names isn't there."""


class NewerFormatError(IntegrityError):
    """A newer version of this program wrote the file."""


class ChecksumMismatchError(IntegrityError):
    """manifest.checksum doesn't say the MD5 of manifest.json: the delivery is being written, or damaged."""


class StoppedError(InventoryEnqueueError):
    """The run stopped before its commit; the same command resumes it."""

    exit_code = 8


class RefusedError(InventoryEnqueueError):
    """A guard refused to go on without the user's word; nothing was sent."""

    exit_code = 9
