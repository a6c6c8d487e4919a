"""An index on disk: the fingerprints of a whole delivery in partitions, with all that is needed to trust them.

indexes/<run>/meta.json       scheme with seeds and golden vector; partition_bits; versions; content columns; parts
indexes/<run>/manifest.json   the delivery's own
indexes/<run>/00000.arrow     columns of FINGERPRINT_SCHEMA, one row a content; part n of 2 ** partition_bits holds the
                              fingerprints whose h has the top bits n. The order of rows has no meaning.
                              Arrow IPC: random bits can't be compressed, and so they are read without a copy.
"""

from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import pyarrow as pa

from inventory_enqueue import documents
from inventory_enqueue.arrow import from_batches, one_batch
from inventory_enqueue.baseline import index_folder
from inventory_enqueue.errors import IntegrityError, InventoryUnavailableError
from inventory_enqueue.fingerprints import FINGERPRINT_SCHEMA, Scheme, Versions, checksum, partition
from inventory_enqueue.manifest import Manifest
from inventory_enqueue.report import Output
from inventory_enqueue.run import Run
from inventory_enqueue.store import Store

INDEX_GONE: Final = "the baseline's index is gone"
START_ANEW: Final = (
    "name the delivery to compare with by --previous, or start anew with another --pipeline and --first-run seed "
    "(sends nothing) or all (sends everything)"
)
_SCHEMA: Final = pl.DataFrame(schema=FINGERPRINT_SCHEMA).to_arrow().schema


@dataclass(frozen=True)
class IndexMeta:
    """meta.json."""

    scheme: Scheme
    partition_bits: int
    versions: Versions
    """What an identity is."""
    lists_versions: bool
    """Whether the inventory told of versions; under Versions.CURRENT the index holds the live objects all the same."""
    content_columns: tuple[str, ...]
    """What f could look at: e_tag and size, or what the inventory had of them."""
    rows: int
    identities: int
    parts: tuple[Output, ...]

    def to_json(self) -> dict[str, Any]:
        """As meta.json holds it."""
        return {
            "scheme": self.scheme.to_json(),
            "partition_bits": self.partition_bits,
            "versions": self.versions,
            "lists_versions": self.lists_versions,
            "content_columns": self.content_columns,
            "rows": self.rows,
            "identities": self.identities,
            "parts": [part.to_json() for part in self.parts],
        }

    @classmethod
    def load(cls, store: Store, folder: str) -> "IndexMeta":
        """Reads meta.json.

        Raises:
            InventoryUnavailableError: The index is gone.
            IntegrityError: It is damaged, of a newer version, or this machine hashes otherwise.
        """
        name = f"{folder}/meta.json"
        where = store.where(name)
        try:
            data = store.get(name)
        except FileNotFoundError as error:
            raise InventoryUnavailableError(f"{INDEX_GONE}: {START_ANEW}", where=where) from error

        def build(document: dict[str, Any]) -> IndexMeta:
            return cls(
                Scheme.from_json(document["scheme"], where=where),
                int(document["partition_bits"]),
                Versions(document["versions"]),
                bool(document["lists_versions"]),
                tuple(document["content_columns"]),
                int(document["rows"]),
                int(document["identities"]),
                tuple(Output(**part) for part in document["parts"]),
            )

        return documents.parse(data, build, where=where)

    def check_parts(self, store: Store, folder: str) -> None:
        """Looks for the parts, and at their sizes; what is in them is verified when they are read.

        Raises:
            InventoryUnavailableError: One is gone or cut.
        """
        for part in self.parts:
            name = f"{folder}/{part.name}"
            if store.size(name) != part.size:
                raise InventoryUnavailableError(
                    "this part of the baseline's index is gone or cut", where=store.where(name)
                )


def read_manifest_copy(store: Store, folder: str) -> bytes | None:
    """The manifest.json of an index's delivery, or None where it is gone."""
    found = store.read(f"{folder}/manifest.json")
    return None if found is None else found.data


def read_manifest(store: Store, folder: str) -> Manifest | None:
    """As read_manifest_copy, parsed."""
    copy = read_manifest_copy(store, folder)
    return None if copy is None else Manifest.parse(copy, where=store.where(f"{folder}/manifest.json"))


def read_part(store: Store, folder: str, meta: IndexMeta, number: int, *, partition_bits: int) -> pl.DataFrame:
    """The fingerprints of one of 2 ** partition_bits partitions, whatever number of parts the index was written in.

    Raises:
        IntegrityError: A part isn't the one that meta.json describes.
    """
    split = partition_bits - meta.partition_bits
    if split <= 0:
        first = number << -split
        return pl.concat([_verified(store, folder, meta.parts[n]) for n in range(first, first + (1 << -split))])
    whole = _verified(store, folder, meta.parts[number >> split])
    return whole.filter(partition(partition_bits) == number)


def _verified(store: Store, folder: str, part: Output) -> pl.DataFrame:
    name = f"{folder}/{part.name}"
    where = store.where(name)
    advice = "restore it from a backup, or name the delivery to compare with by --previous"
    altered = f"this part of the baseline's index was altered (size or checksum differs): {advice}"
    # Arrow's pool keeps freed memory for the next part; bytes would be fresh from the system for each.
    data = pa.allocate_buffer(part.size)
    try:
        with store.open(name) as file:
            if file.readinto(memoryview(data)) != part.size or file.read(1):
                raise IntegrityError(altered, where=where)
    except FileNotFoundError as error:
        raise IntegrityError(f"this part of the baseline's index is gone: {advice}", where=where) from error
    try:
        with pa.ipc.open_file(data) as reader:
            frame = from_batches([reader.get_batch(0)], _SCHEMA)
    except pa.ArrowException as error:
        raise IntegrityError(f"this part of the baseline's index can't be read: {advice}", where=where) from error
    if checksum(frame) != part.checksum:
        raise IntegrityError(altered, where=where)
    return frame


def write_part(store: Store, number: int, fingerprints: pl.DataFrame) -> Output:
    """Writes a part into the store of a run's index."""
    name = f"{number:05d}.arrow"
    with store.write_file(name) as path:
        with pa.ipc.new_file(str(path), _SCHEMA) as writer:
            writer.write_batch(one_batch(fingerprints, _SCHEMA))
        size = path.stat().st_size
    return Output(name, size, fingerprints.height, checksum(fingerprints))


def write_meta(store: Store, run: Run, meta: IndexMeta) -> None:
    """Completes the index that a run's diff tasks wrote: after this it can be used."""
    folder = index_folder(run.id)
    store.put(f"{folder}/manifest.json", run.current.data)
    store.put(f"{folder}/meta.json", documents.encode(meta.to_json()))
