"""The homes of a state: a local folder, and S3."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from inventory_enqueue.aws.session import s3_client
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.store import Store
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.stores.s3 import S3Store
from inventory_enqueue.uris import Location

_READ_TIMEOUT: Final = 10
"""Seconds: a heartbeat that waited longer for a lost answer would leave too little of a lease for the next one."""


def open_store(location: Location, settings: AwsSettings, scratch: Path, *, sync_interval: float = 5.0) -> Store:
    """The store at a local folder or under an s3:// URL.

    Args:
        location: Where it is.
        settings: How AWS is reached. Whether inventories are read without credentials, for whose money and of which
            owner, is about their buckets, not about the state's.
        scratch: A local folder for temporary files and copies. Its files are the caller's to remove.
        sync_interval: Seconds after which a log that is appended to is made durable.

    Raises:
        PreflightError: The settings name a profile that doesn't exist, or something else that can't be used.
    """
    if isinstance(location, Path):
        return LocalStore(location)
    client = s3_client(replace(settings, no_sign_request=False), read_timeout=_READ_TIMEOUT)
    return S3Store(client, location, scratch, sync_interval=sync_interval)
