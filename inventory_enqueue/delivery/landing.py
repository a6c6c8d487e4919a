"""A delivery's files, from where they are to a verified local path."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from inventory_enqueue.aws import s3
from inventory_enqueue.aws.session import s3_client
from inventory_enqueue.config import AwsSettings, S3Arguments
from inventory_enqueue.errors import DataFileGoneError, IntegrityError, InventoryUnavailableError, PreflightError
from inventory_enqueue.manifest import FileFormat, InventoryFile, Manifest, check_checksum
from inventory_enqueue.run import Delivery
from inventory_enqueue.uris import Location, S3Url

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


DOWNLOADS: Final = 4
"""Data files that are fetched at a time. Each takes a thread and 1 MiB; its bytes go to the scratch space."""


@dataclass(frozen=True)
class LandedFile:
    """A data file on this machine, whose bytes are the manifest's."""

    path: Path
    file_format: FileFormat
    file_schema: str
    source_bucket: str
    where: str
    """Its key, for errors."""


class Landing:
    """Reads deliveries from S3 or local folders; a file's size and MD5 are checked before its path is given out."""

    def __init__(self, settings: AwsSettings, scratch: Path) -> None:
        """Makes it; nothing is read yet.

        Args:
            settings: How AWS is reached.
            scratch: Folder for downloads.
        """
        self._settings = settings
        self._scratch = scratch
        self._verified: dict[Path, tuple[int, int, int]] = {}
        self._downloads: dict[tuple[str, int], Future[Path]] = {}
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="download")
        self._lock = Lock()

    @property
    def arguments(self) -> S3Arguments:
        """What each request to S3 says beside its own arguments."""
        return self._settings.s3_arguments()

    @cached_property
    def client(self) -> "S3Client":
        """The S3 client, made when the first object is asked for."""
        return s3_client(self._settings)

    def open(self, location: Location) -> Delivery:
        """Reads a manifest and its checksum.

        Raises:
            InventoryUnavailableError: One of them isn't there.
            IntegrityError: They don't belong together, or the manifest can't be parsed.
            PreflightError, StoppedError: S3 can't be read.
        """
        location = location.absolute() if isinstance(location, Path) else location
        data = self._read(location, "there is no manifest; check the path")
        checksum_location = _checksum_location(location)
        checksum = self._read(
            checksum_location, "there is no checksum file: the delivery isn't complete yet; wait until it is"
        )
        check_checksum(data, checksum, where=str(location), checksum_where=str(checksum_location))
        return Delivery(location, Manifest.parse(data, where=str(location)), data)

    def prefetch(self, delivery: Delivery, numbers: Iterable[int]) -> None:
        """Begins to download data files that land() will be asked for soon, while the caller decodes others."""
        if isinstance(delivery.location, S3Url):
            for number in numbers:
                self._begin(delivery, number)

    def land(self, delivery: Delivery, number: int, *, verified: bool = True) -> LandedFile:
        """A verified local copy of a data file; the file itself where the delivery is local.

        Args:
            delivery: The delivery.
            number: Of its file.
            verified: Whether the MD5 of a local file is computed; one who looks only at rows that he knows needn't.

        Raises:
            DataFileGoneError: It isn't there.
            IntegrityError: Its size or MD5 isn't the manifest's.
            PreflightError, StoppedError: S3 can't be read.
        """
        manifest = delivery.manifest
        file = manifest.files[number]
        if isinstance(delivery.location, S3Url):
            path = self._begin(delivery, number).result()
        else:
            path = _local_path(delivery.location, file)
            if verified:
                self._verify(path, file)
        return LandedFile(path, manifest.file_format, manifest.file_schema, manifest.source_bucket, file.key)

    def fetch(self, location: Location) -> Path:
        """A file that no manifest names, as a local path.

        Raises:
            InventoryUnavailableError: It isn't there.
            PreflightError, StoppedError: S3 can't be read.
        """
        if isinstance(location, Path):
            if not location.is_file():
                raise InventoryUnavailableError("there is no such file", where=str(location))
            return location
        self._scratch.mkdir(parents=True, exist_ok=True)
        target = self._scratch / hashlib.sha256(str(location).encode()).hexdigest()
        try:
            s3.download(self.client, location, self.arguments, target)
        except s3.ObjectNotFoundError as error:
            raise InventoryUnavailableError("there is no such object", where=str(location)) from error
        return target

    def release(self, delivery: Delivery, number: int) -> None:
        """Removes a downloaded copy; land() fetches it again."""
        if isinstance(delivery.location, S3Url):
            with self._lock:
                self._downloads.pop((delivery.manifest.md5, number), None)
            self._copy(delivery, number).unlink(missing_ok=True)

    def _begin(self, delivery: Delivery, number: int) -> "Future[Path]":
        """The download of a file: begun now, or before."""
        with self._lock:
            identity = (delivery.manifest.md5, number)
            if identity not in self._downloads:
                self._downloads[identity] = self._pool.submit(self._download, delivery, number)
            return self._downloads[identity]

    def _copy(self, delivery: Delivery, number: int) -> Path:
        # Checksums and numbers name the copy: no key from outside becomes a path.
        return self._scratch / delivery.manifest.md5 / f"{delivery.manifest.files[number].md5_checksum}-{number}"

    def _verify(self, path: Path, file: InventoryFile) -> None:
        """Checks a file in place; one that didn't change since isn't read again."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        if self._verified.get(path) != stamp:
            with path.open("rb") as opened:
                md5 = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            _check(file, status.st_size, md5, where=str(path))
            self._verified[path] = stamp

    def close(self) -> None:
        """Ends the downloads and closes the connections."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if "client" in self.__dict__:
            self.client.close()

    def _read(self, location: Location, absent: str) -> bytes:
        try:
            if isinstance(location, S3Url):
                return s3.get_object(self.client, location, self.arguments)
            return location.read_bytes()
        except (s3.ObjectNotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise InventoryUnavailableError(absent, where=str(location)) from error
        except OSError as error:
            raise PreflightError(f"it can't be read ({error.strerror})", where=str(location)) from error

    def _download(self, delivery: Delivery, number: int) -> Path:
        file = delivery.manifest.files[number]
        target = self._copy(delivery, number)
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.part")
        try:
            url, (size, md5) = self._first_found(delivery, file, temporary)
            _check(file, size, md5, where=str(url))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _first_found(self, delivery: Delivery, file: InventoryFile, target: Path) -> tuple[S3Url, tuple[int, str]]:
        """Downloads a file from where the manifest says, else from beside it, where a copied delivery has it."""
        manifest_url = delivery.location
        assert isinstance(manifest_url, S3Url)  # noqa: S101 - only deliveries in S3 are downloaded
        folder = manifest_url.key.rpartition("/")[0]
        config_folder = folder.rpartition("/")[0]
        beside = "/".join(part for part in (config_folder, "data", file.name) if part)
        candidates = [
            S3Url(delivery.manifest.destination_bucket, file.key),
            S3Url(manifest_url.bucket, file.key),
            S3Url(manifest_url.bucket, beside),
        ]
        denied: s3.AccessDeniedError | None = None
        for url in dict.fromkeys(candidates):
            try:
                return url, s3.download(self.client, url, self.arguments, target)
            except s3.ObjectNotFoundError:
                continue
            except s3.AccessDeniedError as error:
                # Of a copied delivery, the bucket that it once lay in may be closed to us.
                denied = denied or error
        if denied is not None:
            raise denied
        raise DataFileGoneError(
            f"the manifest names this data file, but it isn't there (nor at {S3Url(manifest_url.bucket, beside)}); "
            "a lifecycle rule may have removed it: take a newer delivery",
            where=str(candidates[0]),
        )


def _check(file: InventoryFile, size: int, md5: str, *, where: str) -> None:
    if size != file.size:
        raise IntegrityError(
            f"it has {size} bytes, the manifest says {file.size}: it is truncated or was replaced", where=where
        )
    if md5 != file.md5_checksum:
        raise IntegrityError(
            f"its MD5 is {md5}, the manifest says {file.md5_checksum}: it is damaged or was replaced", where=where
        )


def _checksum_location(manifest: Location) -> Location:
    """manifest.checksum beside manifest.json."""
    if isinstance(manifest, S3Url):
        return S3Url(manifest.bucket, manifest.key.removesuffix(".json") + ".checksum")
    return manifest.with_name(manifest.name.removesuffix(".json") + ".checksum")


def _local_path(manifest: Path, file: InventoryFile) -> Path:
    """Where a local delivery's data file is: by its key under a folder above the manifest, else near the manifest.

    Raises:
        DataFileGoneError: It is nowhere.
    """
    folder = manifest.parent
    # The key comes from outside. With `..`, from the root of the file system, or through hidden folders it could name
    # files that have nothing to do with a delivery.
    parts = [part for part in file.key.split("/") if part]
    candidates: list[Path] = []
    if parts and not any(part.startswith(".") for part in parts) and "\0" not in file.key:
        candidates = [above.joinpath(*parts) for above in (folder, *folder.parents) if above != Path(above.anchor)]
        candidates += [folder.parent / "data" / parts[-1], folder / "data" / parts[-1], folder / parts[-1]]
    for candidate in candidates:
        with suppress(OSError):  # such as a name that is too long
            if candidate.is_file():
                return candidate
    raise DataFileGoneError(
        f"the manifest names the data file {file.key!r}, but it isn't under a folder above the manifest, nor near it "
        "(../data/, data/)",
        where=str(manifest),
    )
