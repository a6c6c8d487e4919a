"""What is known of S3 Inventory, section by section of the facts about it: each statement has a test that names it."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl
import pyarrow as pa
import pytest

from inventory_enqueue.config import AwsSettings, Change
from inventory_enqueue.delivery.landing import LandedFile, Landing
from inventory_enqueue.delivery.reading import columns_of, read_rows
from inventory_enqueue.delivery.writing import InventoryConfig, write_delivery
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import (
    ChecksumMismatchError,
    IntegrityError,
    InventoryUnavailableError,
    RefusedError,
)
from inventory_enqueue.fingerprints import Scheme, Versions
from inventory_enqueue.manifest import FileFormat, Manifest, csv_columns
from inventory_enqueue.report import Status
from inventory_enqueue.schema import OBJECT_SCHEMA
from tests.support import data_files
from tests.support.data_files import TYPES, UNKNOWN, Groups, Row, deliver_rows
from tests.support.deliveries import DAY_1, SOURCE, checksum_file, edit_manifest, flip
from tests.support.file_pipeline import FilePipeline, Message, keys, refused
from tests.support.listing import CURRENT, VERSIONED, WRITTEN
from tests.support.reader import ROOM, arrow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMATS: Final = list(FileFormat)
BOTH: Final = frozenset({Change.NEW, Change.CHANGED})


def listed(key: str, **values: Any) -> Row:  # noqa: ANN401 - a value of any column
    """An object of the bucket, as its row lists it."""
    content = data_files.md5(key.encode())
    return {
        "bucket": SOURCE,
        "key": key,
        "size": len(key),
        "last_modified_date": WRITTEN,
        "e_tag": content,
        "storage_class": "STANDARD",
        **values,
    }


def version(key: str, version_id: str | None, *, latest: bool = True, marker: bool = False) -> Row:
    """A version of an object; a delete marker has no content."""
    row = listed(key, version_id=version_id, is_latest=latest, is_delete_marker=marker)
    row["e_tag"] = data_files.md5(f"{key} {version_id}".encode())
    return row | dict.fromkeys(["size", "e_tag", "storage_class"]) if marker else row


def objects(*names: str) -> list[Row]:
    return [listed(name) for name in names]


def deliver(
    root: Path, day: int, *files: list[Row], columns: Sequence[str] = CURRENT, file_format: FileFormat = FileFormat.CSV
) -> Path:
    """Write a delivery whose files have a row group, stripe or gzip member for each of two halves."""
    halves: list[Groups] = [[rows[: len(rows) // 2], rows[len(rows) // 2 :]] for rows in files]
    return deliver_rows(root, day, file_format, columns, halves)


def numbered(count: int, prefix: str = "k") -> list[Row]:
    return objects(*(f"{prefix}/{number:03}" for number in range(count)))


class TestWhereADeliveryLands:
    """Section 1."""

    def test_only_the_manifest_says_which_files_of_the_shared_data_folder_are_the_deliverys(
        self, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        deliver(root, 2, objects("b"))
        data = manifest.parent.parent / "data"
        (data / "0-stray.csv.gz").write_bytes(b"no gzip")
        assert keys(daily.everything(manifest)) == Counter("a")
        assert len(list(data.iterdir())) == 3

    def test_a_data_file_lies_at_its_whole_key_in_the_destination(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"))
        elsewhere = root / "some" / "other place" / "1.csv.gz"
        elsewhere.parent.mkdir(parents=True)
        (manifest.parent.parent / "data" / "1-0.csv.gz").rename(elsewhere)
        edit_manifest(manifest, lambda document: document["files"][0].update(key="some/other place/1.csv.gz"))
        assert keys(daily.everything(manifest)) == Counter("a")

    @pytest.mark.parametrize("prefix", ["gone/", f"x//{SOURCE}/daily/data/"])
    def test_where_that_key_is_absent_the_file_is_found_beside_the_manifest(
        self, prefix: str, daily: FilePipeline, root: Path
    ) -> None:
        """The delivery was copied, or its destination prefix ended in a slash."""
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document["files"][0].update(key=f"{prefix}1-0.csv.gz"))
        assert keys(daily.everything(manifest)) == Counter("a")

    def test_a_delivery_is_as_old_as_its_creation_timestamp_whatever_its_folder_is_called(
        self, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        moved = manifest.parent.rename(manifest.parent.with_name("2026-12-31T04-17Z")) / "manifest.json"
        daily.seed(moved)
        assert daily.report.source is not None
        assert daily.report.source["created"] == "2026-03-02T01:00:00.000Z"

    @pytest.mark.parametrize("end", ["\n", "", "\r\n"])
    @pytest.mark.parametrize("case", [str.lower, str.upper])
    def test_the_checksum_file_holds_the_hex_md5_and_a_newline(
        self, end: str, case: Callable[[str], str], daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        written = checksum_file(manifest).read_bytes()
        assert (len(written), written[-1:]) == (33, b"\n")
        checksum_file(manifest).write_bytes(case(written.decode().strip()).encode() + end.encode())
        assert keys(daily.everything(manifest)) == Counter("a")

    def test_a_delivery_is_complete_only_once_its_checksum_exists(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"))
        checksum = checksum_file(manifest).read_bytes()
        checksum_file(manifest).unlink()
        error = refused(daily, manifest)
        assert (type(error), error.exit_code) == (InventoryUnavailableError, 6)
        assert "isn't complete yet" in error.message
        checksum_file(manifest).write_bytes(checksum)
        assert keys(daily.everything(manifest)) == Counter("a")

    def test_a_delivery_is_complete_only_if_its_checksum_is_that_of_the_manifest(
        self, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        flip(checksum_file(manifest), 0)
        error = refused(daily, manifest)
        assert (type(error), error.exit_code) == (ChecksumMismatchError, 7)

    def test_an_overwritten_manifest_is_a_new_delivery(self, daily: FilePipeline, root: Path) -> None:
        """Its identity is its MD5, not its path."""
        daily.seed(deliver(root, 1, objects("a")))
        assert keys(daily.run(deliver(root, 2, objects("a", "b")))) == Counter("b")
        again = deliver(root, 2, objects("a", "b", "c"))
        assert keys(daily.run(again)) == Counter("c")
        assert daily.run(again) == []
        assert daily.report.status is Status.NOTHING_NEW

    def test_an_old_delivery_sends_nothing_and_moves_nothing(self, daily: FilePipeline, root: Path) -> None:
        first, second = deliver(root, 1, objects("a", "b")), deliver(root, 2, objects("a"))
        daily.seed(second)
        baseline = daily.baseline()
        assert daily.run(first) == []
        assert (daily.report.status, daily.baseline()) == (Status.NOTHING_NEW, baseline)

    @pytest.mark.parametrize("prefix", ["", "some/prefix"])
    def test_the_inventorys_own_reports_in_the_source_bucket_are_excluded_and_counted(
        self, prefix: str, daily: FilePipeline, root: Path
    ) -> None:
        config = InventoryConfig(SOURCE, SOURCE, prefix)
        own = [f"{config.key}/data/1.parquet", f"{config.key}/2026-03-01T01-00Z/manifest.json", f"{config.key}/"]
        others = ["a", config.key, f"{config.key}ish/data/1.parquet", f"x/{config.key}/data/1.parquet"]
        rows = data_files.table(CURRENT, objects(*own, *others))
        manifest = write_delivery(root, config, DAY_1, [[rows]]).manifest
        assert keys(daily.everything(manifest)) == Counter(others)
        assert daily.report.counts["excluded"] == len(own)

    def test_in_another_bucket_a_key_like_the_inventorys_own_is_an_object(
        self, daily: FilePipeline, root: Path
    ) -> None:
        key = f"{SOURCE}/daily/data/1.csv.gz"
        assert keys(daily.everything(deliver(root, 1, objects(key)))) == Counter([key])
        assert daily.report.counts["excluded"] == 0


class TestManifest:
    """Section 2."""

    @pytest.mark.parametrize("arn", ["arn:aws:s3:::{}", "arn:aws-cn:s3:::{}", "arn:aws-us-gov:s3:::{}", "{}"])
    def test_the_destination_is_an_arn_of_any_partition_or_a_bare_name(
        self, arn: str, daily: FilePipeline, root: Path
    ) -> None:
        own = f"{SOURCE}/daily/data/1.csv.gz"
        manifest = deliver(root, 1, objects("a", own))
        edit_manifest(manifest, lambda document: document.update(destinationBucket=arn.format(SOURCE)))
        assert keys(daily.everything(manifest)) == Counter("a")
        assert daily.report.counts["excluded"] == 1, "the destination is known to be the source"

    @pytest.mark.parametrize("kind", [str, int])
    def test_the_creation_timestamp_is_a_text_or_a_number_of_milliseconds(
        self, kind: type, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document.update(creationTimestamp=kind(1_772_413_200_123)))
        daily.seed(manifest)
        assert daily.report.source is not None
        assert daily.report.source["created"] == "2026-03-02T01:00:00.123Z"

    @pytest.mark.parametrize("name", ["csv", "Csv", "orc", "parquet", "PARQUET", "Avro", ""])
    def test_the_format_is_spelt_exactly(self, name: str, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document.update(fileFormat=name))
        error = refused(daily, manifest)
        assert (type(error), error.exit_code, error.where) == (IntegrityError, 7, str(manifest))
        assert "fileFormat" in error.message

    @pytest.mark.parametrize("text", ["UTF8", "STRING"])
    @pytest.mark.parametrize("time", ["TIMESTAMP_MILLIS", "TIMESTAMP(MILLIS,true)"])
    def test_parquet_types_are_as_documented_or_as_real_manifests_have_them(self, text: str, time: str) -> None:
        schema = (
            f"message s3.inventory {{  required binary bucket ({text});  required binary key ({text});"
            f"  optional int64 size;  optional int64 last_modified_date ({time});  optional boolean is_latest;}}"
        )
        document = {
            "sourceBucket": SOURCE,
            "destinationBucket": "inventory",
            "creationTimestamp": "1",
            "fileFormat": "Parquet",
            "fileSchema": schema,
            "files": [],
        }
        manifest = Manifest.parse(json.dumps(document).encode(), where="manifest.json")
        assert manifest.columns == {"bucket", "key", "size", "last_modified_date", "is_latest"}

    @pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
    def test_the_columns_of_parquet_and_orc_are_those_of_the_files(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        days = [deliver(root, day, [listed("a", e_tag=f"e{day}")], file_format=file_format) for day in (1, 2)]
        for manifest in days:
            edit_manifest(manifest, lambda document: document.update(fileSchema="struct<bucket:string,key:string>"))
        daily.seed(days[0])
        assert keys(daily.run(days[1], changes=BOTH)) == Counter("a")

    @pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
    def test_so_are_those_that_tell_changes_from_a_previous_delivery(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        first = deliver(root, 1, objects("a"), file_format=file_format)
        without = [name for name in CURRENT if name != "e_tag"]
        second = deliver(root, 2, objects("a"), columns=without, file_format=file_format)
        schema = data_files.file_schema(file_format, CURRENT)
        edit_manifest(second, lambda document: document.update(fileSchema=schema))
        error = refused(daily, second, previous=first, changes=BOTH)
        assert (type(error), error.exit_code) == (IntegrityError, 7)
        assert "fileSchema names the column 'e_tag'" in error.message

    @pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
    def test_so_is_the_column_of_versions(self, file_format: FileFormat, daily: FilePipeline, root: Path) -> None:
        daily.seed(
            deliver(root, 1, [version("a", "v1")], columns=VERSIONED, file_format=file_format), versions=Versions.ALL
        )
        second = deliver(root, 2, objects("a"), file_format=file_format)
        schema = data_files.file_schema(file_format, VERSIONED)
        edit_manifest(second, lambda document: document.update(fileSchema=schema))
        assert refused(daily, second, versions=Versions.ALL).exit_code in {7, 9}

    def test_the_columns_of_csv_are_those_of_the_file_schema(self, daily: FilePipeline, root: Path) -> None:
        columns = ["e_tag", "size", "key", "bucket"]
        data = data_files.write_csv(columns, [objects("a")])
        manifest = data_files.deliver(root, 1, FileFormat.CSV, "ETag,Size,  Key , Bucket", [data])
        (message,) = daily.everything(manifest)
        assert (message["key"], message["size"], message["e_tag"]) == ("a", 1, data_files.md5(b"a"))

    def test_file_schema_names_are_the_columns_of_orc_and_parquet_in_another_spelling(self) -> None:
        names = ", ".join(name.title().replace("_", "") for name in TYPES)
        assert csv_columns(names) == list(TYPES)
        assert "ETag" in names

    def test_an_md5_in_capitals_is_the_same(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document["files"][0].update(MD5checksum=upper(document)))
        assert keys(daily.everything(manifest)) == Counter("a")

    def test_a_manifest_of_hundreds_of_files_is_read(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, *([listed(f"{number}")] for number in range(516)))
        assert len(daily.everything(manifest)) == 516
        assert daily.report.source is not None
        assert daily.report.source["files"] == 516


def upper(document: dict[str, Any]) -> str:
    return str(document["files"][0]["MD5checksum"]).upper()


OPTIONAL: Final = [name for name in TYPES if name not in VERSIONED[:5]]
FULL: Final = {
    "is_multipart_uploaded": False,
    "replication_status": "COMPLETED",
    "encryption_status": "SSE-KMS",
    "object_lock_retain_until_date": datetime(2030, 1, 1, tzinfo=UTC),
    "object_lock_mode": "GOVERNANCE",
    "object_lock_legal_hold_status": "OFF",
    "intelligent_tiering_access_tier": "FREQUENT",
    "bucket_key_status": "ENABLED",
    "checksum_algorithm": "CRC64NVME",
    "object_access_control_list": "eyJ2ZXJzaW9uIjoiMjAyMi0xMS0xMCJ9",
    "object_owner": "75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a",
    "lifecycle_expiration_date": datetime(2031, 1, 1, tzinfo=UTC),
    "object_lock_event_hold_status": "ON",
    "object_lock_event_hold_duration": 30,
    "intelligent_tiering_reference_date": datetime(2026, 2, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("file_format", FORMATS)
class TestColumns:
    """Section 3."""

    def test_a_config_without_optional_fields_works_and_its_overwrites_are_said_to_be_invisible(
        self, file_format: FileFormat, daily: FilePipeline, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        columns = ["bucket", "key"]
        days = [
            deliver(root, 1, objects("a", "b"), columns=columns, file_format=file_format),
            deliver(root, 2, [listed("a", e_tag="x"), *objects("b", "c")], columns=columns, file_format=file_format),
        ]
        daily.seed(days[0])
        assert "an overwritten object can't be seen" in caplog.text
        (message,) = daily.run(days[1], changes=BOTH)
        assert {name: message[name] for name in ("key", "size", "e_tag", "last_modified_date", "version_id")} == {
            "key": "c",
            **dict.fromkeys(["size", "e_tag", "last_modified_date", "version_id"]),
        }
        assert daily.report.counts["unchanged"] == 2

    def test_all_columns_of_s3_at_once_are_read(self, file_format: FileFormat, daily: FilePipeline, root: Path) -> None:
        rows = [listed(key, **FULL, version_id="v", is_latest=True, is_delete_marker=False) for key in "ab"]
        assert set(rows[0]) == set(TYPES)
        manifest = deliver(root, 1, rows, columns=list(TYPES), file_format=file_format)
        assert keys(daily.everything(manifest)) == Counter("ab")

    @pytest.mark.parametrize("absent", OPTIONAL)
    def test_any_optional_column_may_be_absent(
        self, absent: str, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        columns = ["bucket", "key", *(name for name in OPTIONAL if name != absent)]
        manifest = deliver(root, 1, [listed(key, **FULL) for key in "ab"], columns=columns, file_format=file_format)
        sent = daily.everything(manifest)
        assert keys(sent) == Counter("ab")
        assert [message.get(absent) for message in sent] == [None, None]

    def test_all_optional_columns_may_be_null(self, file_format: FileFormat, daily: FilePipeline, root: Path) -> None:
        rows = [{"bucket": SOURCE, "key": key} for key in "ab"]
        manifest = deliver(root, 1, rows, columns=["bucket", "key", *OPTIONAL], file_format=file_format)
        assert keys(daily.everything(manifest)) == Counter("ab")

    def test_new_columns_keep_coming_and_unknown_ones_are_ignored(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        assert not set(UNKNOWN) & set(OBJECT_SCHEMA.names)
        daily.seed(deliver(root, 1, numbered(3), file_format=file_format))
        rows = [row | FULL for row in numbered(4)]
        manifest = deliver(root, 2, rows, columns=[*UNKNOWN, *CURRENT], file_format=file_format)
        assert keys(daily.run(manifest, changes=BOTH)) == Counter(["k/003"])

    def test_columns_may_come_in_any_order(self, file_format: FileFormat, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, numbered(3), file_format=file_format))
        for day, seed in enumerate(range(4), 2):
            columns = random.Random(seed).sample(CURRENT, len(CURRENT))  # noqa: S311 - no secret
            assert daily.run(deliver(root, day, numbered(3), columns=columns, file_format=file_format)) == []
            assert daily.report.counts["unchanged"] == 3

    @pytest.mark.parametrize(
        ("values", "changed"),
        [
            ({"e_tag": "0cc175b9c0f1b6a831c399e269772661-2"}, 1),
            ({"size": 2}, 1),
            ({"size": 0}, 1),
            ({"storage_class": "GLACIER_IR"}, 0),
            ({"last_modified_date": WRITTEN + timedelta(days=1)}, 0),
            ({"object_lock_retain_until_date": datetime(2030, 1, 2, tzinfo=UTC)}, 0),
            ({"intelligent_tiering_access_tier": "INFREQUENT"}, 0),
            ({"object_owner": "another"}, 0),
            ({"lifecycle_expiration_date": None}, 0),
        ],
        ids=str,
    )
    def test_changed_is_told_by_e_tag_and_size_alone(
        self,
        values: Row,
        changed: int,
        file_format: FileFormat,
        daily: FilePipeline,
        root: Path,
    ) -> None:
        columns = ["bucket", "key", *OPTIONAL]
        daily.seed(deliver(root, 1, [listed("a", **FULL)], columns=columns, file_format=file_format))
        row = listed("a", **FULL) | values
        sent = daily.run(deliver(root, 2, [row], columns=columns, file_format=file_format), changes=BOTH)
        assert keys(sent) == Counter(["a"] * changed)
        assert daily.report.counts["changed"] == changed

    def test_where_the_days_differ_in_what_tells_changes_that_is_refused_and_previous_compares_what_both_have(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        without = [name for name in CURRENT if name != "e_tag"]
        first = deliver(root, 1, objects("a", "bb"), columns=without, file_format=file_format)
        daily.seed(first)
        rows = [listed("a", e_tag="other"), listed("bb", size=7), listed("c")]
        second = deliver(root, 2, rows, file_format=file_format)
        error = refused(daily, second, changes=BOTH)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert f"--previous {first}" in error.message
        sent = daily.run(second, changes=BOTH, previous=first)
        assert {message["key"]: message["change"] for message in sent} == {"bb": "changed", "c": "new"}

    def test_the_same_holds_where_the_later_day_has_less(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        first = deliver(root, 1, objects("a", "bb"), file_format=file_format)
        daily.seed(first)
        without = [name for name in CURRENT if name != "size"]
        rows = [listed("a", e_tag="other"), listed("bb", size=7), listed("c")]
        second = deliver(root, 2, rows, columns=without, file_format=file_format)
        assert refused(daily, second, changes=BOTH).exit_code == 9
        sent = daily.run(second, changes=BOTH, previous=first)
        assert {message["key"]: message["change"] for message in sent} == {"a": "changed", "c": "new"}

    def test_where_the_days_differ_in_what_tells_changes_new_ones_stand(
        self, file_format: FileFormat, daily: FilePipeline, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        without = [name for name in CURRENT if name != "e_tag"]
        daily.seed(deliver(root, 1, objects("a", "b"), columns=without, file_format=file_format))
        assert keys(daily.run(deliver(root, 2, objects("b", "c"), file_format=file_format))) == Counter("c")
        assert daily.report.counts["deleted"] == 1
        assert "new and deleted ones are exact" in caplog.text
        assert keys(
            daily.run(deliver(root, 3, [listed("b", size=9), listed("c")], file_format=file_format), changes=BOTH)
        ) == Counter("b")


LOOK_LIKE_OTHER_TYPES: Final = [
    "0012",
    "12",
    "1e5",
    "0x10",
    "NULL",
    "null",
    "N/A",
    "nan",
    "NaN",
    "None",
    "true",
    "-",
    " ",
]


class TestCsv:
    """Section 4, CSV."""

    def deliver(self, root: Path, text: bytes, *, columns: Sequence[str] = CURRENT) -> Path:
        data = data_files.gzip_member(text)
        return data_files.deliver(root, 1, FileFormat.CSV, data_files.file_schema(FileFormat.CSV, columns), [data])

    def test_every_field_is_quoted_and_an_empty_one_is_null(self, daily: FilePipeline, root: Path) -> None:
        text = b'"source-bucket","a","","","",""\n"source-bucket","b","5","2024-05-07T01:00:00.000Z","e","STANDARD"\n'
        first, second = daily.everything(self.deliver(root, text))
        assert (first["size"], first["last_modified_date"], first["e_tag"]) == (None, None, None)
        assert (second["size"], second["last_modified_date"], second["e_tag"]) == (5, "2024-05-07T01:00:00.000Z", "e")

    def test_there_is_no_header(self, daily: FilePipeline, root: Path) -> None:
        columns = ["bucket", "key"]
        assert keys(daily.everything(self.deliver(root, b'"source-bucket","Key"\n', columns=columns))) == Counter(
            ["Key"]
        )

    def test_a_file_with_a_header_is_refused(self, daily: FilePipeline, root: Path) -> None:
        text = b'"Bucket","Key","Size","LastModifiedDate","ETag","StorageClass"\n'
        assert refused(daily, self.deliver(root, text), first_run="all").exit_code == 7

    @pytest.mark.parametrize(
        ("encoded", "key"),
        [
            (b"a+b", "a b"),
            (b"a%20b", "a b"),
            (b"a%2Bb", "a+b"),
            (b"a%2bb", "a+b"),
            (b"a/b//c/", "a/b//c/"),
            (b"a%2Fb", "a/b"),
            (b"a%2520b", "a%20b"),
            (b"100%25", "100%"),
            (b"caf%C3%A9", "caf\u00e9"),
            (b"cafe%CC%81", "cafe\u0301"),
            (b"%22%2C%0A", '",\n'),
        ],
    )
    def test_keys_are_url_encoded_in_form_style_and_decoded_exactly_once(
        self, encoded: bytes, key: str, daily: FilePipeline, root: Path
    ) -> None:
        text = b'"source-bucket","' + encoded + b'","1","2024-05-07T01:00:00.000Z","e","STANDARD"\n'
        assert keys(daily.everything(self.deliver(root, text))) == Counter([key])

    def test_keys_and_other_texts_that_look_like_numbers_or_nulls_stay_texts(
        self, daily: FilePipeline, root: Path
    ) -> None:
        rows = [listed(text, e_tag=text) for text in LOOK_LIKE_OTHER_TYPES]
        sent = daily.everything(deliver(root, 1, rows))
        assert sorted(message["key"] for message in sent) == sorted(LOOK_LIKE_OTHER_TYPES)
        assert all(message["e_tag"] == message["key"] for message in sent)

    @pytest.mark.parametrize("blank", [b"\n", b"\n\n\n", b"\r\n\r\n"])
    def test_trailing_blank_lines_are_no_rows(self, blank: bytes, daily: FilePipeline, root: Path) -> None:
        text = data_files.csv_text(CURRENT, objects("a", "b"))
        assert keys(daily.everything(self.deliver(root, text + blank))) == Counter("ab")
        assert daily.report.counts["listed"] == 2

    @pytest.mark.parametrize("members", [1, 2, 7, 300])
    def test_a_file_of_many_gzip_members_is_read_to_its_end(
        self, members: int, daily: FilePipeline, root: Path
    ) -> None:
        rows = numbered(600)
        step = len(rows) // members
        groups = [rows[start : start + step] for start in range(0, len(rows), step)]
        manifest = deliver_rows(root, 1, FileFormat.CSV, CURRENT, [groups])
        assert keys(daily.everything(manifest)) == Counter(row["key"] for row in rows)

    def test_gzip_members_may_end_anywhere_in_a_line(self, daily: FilePipeline, root: Path) -> None:
        text = data_files.csv_text(CURRENT, numbered(20))
        data = b"".join(gzip.compress(text[start : start + 37], mtime=0) for start in range(0, len(text), 37))
        manifest = data_files.deliver(root, 1, FileFormat.CSV, data_files.file_schema(FileFormat.CSV, CURRENT), [data])
        assert len(daily.everything(manifest)) == 20

    def test_the_demos_writer_writes_it_so(self, root: Path) -> None:
        rows = data_files.table(CURRENT, [listed("a +%/é"), {"bucket": SOURCE, "key": 'b"'}])
        config = InventoryConfig(SOURCE, "inventory")
        delivery = write_delivery(root, config, DAY_1, [[rows, rows]], file_format=FileFormat.CSV, gzip_members=True)
        data = (root / delivery.files[0].key).read_bytes()
        assert data.count(b"\x1f\x8b\x08") == 2
        assert gzip.decompress(data).decode() == 2 * (
            f'"source-bucket","a+%2B%25/%C3%A9","6","2026-03-02T00:00:00.000Z","{data_files.md5("a +%/é".encode())}",'
            '"STANDARD"\n"source-bucket","b%22","","","",""\n'
        )


READ_ORC: Final = """
import json, sys
from pathlib import Path
import pyarrow.orc
from inventory_enqueue.delivery.landing import LandedFile
from inventory_enqueue.delivery.reading import Room, read_rows
from inventory_enqueue.manifest import FileFormat
path = Path(sys.argv[1])
zones = Path("/usr/share/zoneinfo/UTC").exists()
landed = LandedFile(path, FileFormat.ORC, "", "source-bucket", "file")
frames = [rows.frame for rows in read_rows(landed, ["key", "last_modified_date"], Room(0))]
dates = [str(date) for frame in frames for date in frame["last_modified_date"].to_list()]
print(json.dumps([zones, dates]))
"""
ORC_DATES: Final = ["2024-05-07 01:00:00.123000+00:00", "2026-10-25 01:30:00+00:00"]


class TestOrc:
    """Section 4, ORC."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        rows = [listed("a", last_modified_date=datetime.fromisoformat(date)) for date in ORC_DATES]
        path = tmp_path / "file.orc"
        path.write_bytes(data_files.write_orc(CURRENT, [rows[:1], rows[1:]]))
        return path

    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin"])
    def test_timestamps_are_utc_whatever_the_machines_time_zone(self, zone: str, file: Path) -> None:
        assert self.read([], file, {"TZ": zone})[1] == ORC_DATES

    def test_timestamps_are_read_without_a_time_zone_database(self, file: Path, tmp_path: Path) -> None:
        """As in a slim container."""
        empty = tmp_path / "empty"
        empty.mkdir()
        hide = f'mount --bind {empty} /usr/share/zoneinfo && exec "$@"'
        if not Path("/usr/share/zoneinfo").exists():
            sandbox = []
        else:
            sandbox = next((way for way in self.sandboxes(hide) if permitted(way)), [])
            if not sandbox:
                pytest.skip("this machine lets nobody hide its time zones")
        assert self.read(sandbox, file, {}) == [False, ORC_DATES]

    def sandboxes(self, hide: str) -> list[list[str]]:
        return [["unshare", *flags, "--", "sh", "-c", hide, "sh"] for flags in (["-m"], ["-rm"])]

    def read(self, sandbox: list[str], file: Path, environment: dict[str, str]) -> Any:  # noqa: ANN401 - what it prints
        clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parent.parent), **environment}
        command = [*sandbox, sys.executable, "-W", "error", "-c", READ_ORC, str(file)]
        done = subprocess.run(command, env=clean, check=True, capture_output=True, timeout=60)
        return json.loads(done.stdout)

    def test_keys_are_not_url_encoded(self, daily: FilePipeline, root: Path) -> None:
        names = ["a+b", "a%20b", "100%", "%zz"]
        assert keys(daily.everything(deliver(root, 1, objects(*names), file_format=FileFormat.ORC))) == Counter(names)

    def test_many_stripes_are_read_in_their_order(self, file: Path) -> None:
        rows = numbered(50)
        file.write_bytes(data_files.write_orc(CURRENT, [[row] for row in rows], "UNCOMPRESSED"))
        landed = LandedFile(file, FileFormat.ORC, "", SOURCE, "file")
        frames = [rows.frame for rows in read_rows(landed, ["key"], ROOM)]
        assert len(frames) == 50
        assert [key for frame in frames for key in frame["key"].to_list()] == [row["key"] for row in rows]


def permitted(sandbox: list[str]) -> bool:
    if shutil.which(sandbox[0]) is None:
        return False
    return subprocess.run([*sandbox, "true"], check=False, capture_output=True).returncode == 0


class TestParquet:
    """Section 4, Parquet."""

    def test_keys_are_not_url_encoded(self, daily: FilePipeline, root: Path) -> None:
        names = ["a+b", "a%20b", "100%", "%zz"]
        manifest = deliver(root, 1, objects(*names), file_format=FileFormat.PARQUET)
        assert keys(daily.everything(manifest)) == Counter(names)

    @pytest.mark.parametrize(
        "options",
        [
            {"compression": "snappy", "version": "1.0", "write_page_index": True},
            {"write_statistics": False},
            {"write_statistics": False, "use_dictionary": False, "compression": "none"},
            {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1},
            {"data_page_version": "2.0", "version": "2.6", "compression": "zstd"},
            {"use_deprecated_int96_timestamps": True},
            {"write_page_checksum": True},
        ],
        ids="-".join,
    )
    def test_files_with_or_without_statistics_and_of_many_row_groups_are_read(
        self, options: dict[str, Any], daily: FilePipeline, root: Path
    ) -> None:
        rows = numbered(90)
        tables = [data_files.table(CURRENT, rows[start : start + 9]) for start in range(0, 90, 9)]
        schema = data_files.file_schema(FileFormat.PARQUET, CURRENT)
        data = data_files.write_parquet(tables, **options)
        sent = daily.everything(data_files.deliver(root, 1, FileFormat.PARQUET, schema, [data]))
        assert keys(sent) == Counter(row["key"] for row in rows)
        assert {message["last_modified_date"] for message in sent} == {"2026-03-02T00:00:00.000Z"}

    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    @pytest.mark.parametrize("zone", ["UTC", None, "Europe/Berlin"])
    @pytest.mark.parametrize(
        "text",
        [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
        ids=str,
    )
    def test_a_foreign_writers_types_change_nothing(
        self,
        unit: Literal["ms", "us", "ns"],
        zone: str | None,
        text: pa.DataType,
        daily: FilePipeline,
        root: Path,
    ) -> None:
        """Optional keys, finer times, other kinds of text: as files that were rewritten have them."""
        daily.seed(deliver(root, 1, numbered(4), file_format=FileFormat.PARQUET))
        types = dict.fromkeys(["bucket", "key", "e_tag", "storage_class"], text)
        rows = [row | {"last_modified_date": row["last_modified_date"] + timedelta(seconds=1)} for row in numbered(5)]
        table = data_files.table(CURRENT, rows, {**types, "last_modified_date": pa.timestamp(unit, zone)})
        data = data_files.write_parquet([table])
        schema = data_files.file_schema(FileFormat.PARQUET, CURRENT)
        manifest = data_files.deliver(root, 2, FileFormat.PARQUET, schema, [data])
        (message,) = daily.run(manifest, changes=BOTH)
        assert (message["key"], message["last_modified_date"]) == ("k/004", "2026-03-02T00:00:01.000Z")

    def test_required_keys_as_s3_writes_them_and_optional_ones_are_the_same(
        self, daily: FilePipeline, root: Path
    ) -> None:
        table = data_files.table(CURRENT, numbered(4))
        daily.seed(write_delivery(root, InventoryConfig(SOURCE, "inventory"), DAY_1, [[table]]).manifest)
        assert daily.run(deliver(root, 2, numbered(4), file_format=FileFormat.PARQUET), changes=BOTH) == []
        assert daily.report.counts["unchanged"] == 4


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(FORMATS, 2)))
class TestFormatChange:
    """Sections 4 and 7.8: a config that changes its format between two days sends nothing extra."""

    def test_odd_keys_are_the_same_objects(
        self, before: FileFormat, after: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, objects(*ODD_KEYS), file_format=before))
        rows = [*objects(*ODD_KEYS), listed("new", e_tag="x")]
        assert keys(daily.run(deliver(root, 2, rows, file_format=after), changes=BOTH)) == Counter(["new"])
        assert daily.report.counts["unchanged"] == len(ODD_KEYS)

    @pytest.mark.parametrize("versions", list(Versions))
    def test_versions_nulls_and_delete_markers_are_the_same(
        self, before: FileFormat, after: FileFormat, versions: Versions, daily: FilePipeline, root: Path
    ) -> None:
        rows = [
            version("null-version", None),
            version("two", "v2"),
            version("two", "v1", latest=False),
            version("gone", "v2", marker=True),
            version("gone", "v1", latest=False),
            version("no-content", "v1") | {"size": None, "e_tag": None},
        ]
        days = [
            deliver(root, day, rows, columns=VERSIONED, file_format=file_format)
            for day, file_format in enumerate((before, after), 1)
        ]
        daily.seed(days[0], versions=versions)
        assert daily.run(days[1], changes=BOTH, versions=versions) == []
        assert daily.report.counts["unchanged"] == (3 if versions is Versions.CURRENT else 5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_odd_key_is_sent_as_it_is_and_is_known_the_next_day(
    file_format: FileFormat, daily: FilePipeline, root: Path
) -> None:
    """Section 7.12: up to 1,024 bytes, slashes anywhere, . and .., NFC beside NFD; nothing is ever normalised."""
    half = len(ODD_KEYS) // 2
    days = [
        deliver(root, day, objects(*ODD_KEYS[:half]), objects(*ODD_KEYS[half:]), file_format=file_format)
        for day in (1, 2)
    ]
    assert keys(daily.everything(days[0])) == Counter(ODD_KEYS)
    assert {"caf\u00e9", "cafe\u0301", "..", "//", "folder/"} < set(ODD_KEYS)
    assert max(len(key.encode()) for key in ODD_KEYS) == 1024
    assert daily.run(days[1], changes=BOTH) == []


class TestOrder:
    """Section 5."""

    @pytest.mark.parametrize("seed", range(5))
    def test_rows_and_files_may_come_in_any_order(self, seed: int, daily: FilePipeline, root: Path) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret

        def shuffled(day: int, rows: list[Row]) -> Path:
            rows = chance.sample(rows, len(rows))
            cuts = sorted(chance.sample(range(len(rows)), 3))
            files = [rows[start:end] for start, end in itertools.pairwise([0, *cuts, len(rows)])]
            manifest = deliver(root, day, *files)
            edit_manifest(manifest, lambda document: chance.shuffle(document["files"]))
            return manifest

        daily.seed(shuffled(1, numbered(60)))
        sent = daily.run(shuffled(2, [*numbered(70)[10:], listed("k/999")]), changes=BOTH)
        assert keys(sent) == Counter([f"k/{number:03}" for number in range(60, 70)] + ["k/999"])
        assert (daily.report.counts["unchanged"], daily.report.counts["deleted"]) == (50, 10)

    def test_a_key_that_a_list_names_twice_is_one_object(self, daily: FilePipeline, root: Path) -> None:
        """The scan rolls over the bucket: an object can be met twice, in different files and with other content."""
        daily.seed(deliver(root, 1, objects("a", "a"), objects("a", "b")))
        assert (daily.report.counts["listed"], daily.report.counts["duplicates"]) == (4, 2)
        twice = [*objects("a", "c"), listed("c", e_tag="older")]
        assert keys(daily.run(deliver(root, 2, twice, objects("c", "b")))) == Counter("c")
        assert daily.run(deliver(root, 3, objects("c", "b", "a")), changes=BOTH) == []

    def test_the_versions_of_a_key_may_lie_in_several_files(self, daily: FilePipeline, root: Path) -> None:
        old, new = version("a", "v1", latest=False), version("a", "v2")
        daily.seed(deliver(root, 1, [old], [new], columns=VERSIONED))
        assert daily.run(deliver(root, 2, [new], [version("b", "v1")], [old], columns=VERSIONED)) != []
        assert daily.report.counts["not_live"] == 1
        assert keys(daily.messages()) == Counter("b")

    def test_an_object_that_a_list_missed_is_new_however_old_it_is(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        late = listed("late", last_modified_date=DAY_1 - timedelta(days=400))
        assert keys(daily.run(deliver(root, 2, [*objects("a"), late]))) == Counter(["late"])

    @pytest.mark.parametrize(("age", "reappeared"), [(6, 0), (8, 1)])
    def test_a_key_that_comes_back_is_sent_and_named_if_it_is_older_than_a_week(
        self, age: int, reappeared: int, daily: FilePipeline, root: Path
    ) -> None:
        vanishing = listed("v", last_modified_date=DAY_1 + timedelta(days=1) - timedelta(days=age))
        daily.seed(deliver(root, 1, [*objects("a"), vanishing]))
        assert daily.run(deliver(root, 2, objects("a"))) == []
        assert keys(daily.run(deliver(root, 3, [*objects("a"), vanishing]))) == Counter("v")
        assert daily.report.counts["reappeared"] == reappeared

    def test_a_deletion_is_counted_and_nothing_more(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a", "b")))
        assert daily.run(deliver(root, 2, objects("a")), changes=BOTH) == []
        assert daily.report.counts["deleted"] == 1

    def test_messages_carry_what_a_consumer_needs_to_look_again(self, daily: FilePipeline, root: Path) -> None:
        (message,) = daily.everything(deliver(root, 1, [version("a", "v1")], columns=VERSIONED))
        looked_at = ("key", "version_id", "e_tag", "size", "last_modified_date")
        assert [message[name] for name in looked_at] == [
            "a",
            "v1",
            data_files.md5(b"a v1"),
            1,
            "2026-03-02T00:00:00.000Z",
        ]


@pytest.mark.parametrize("file_format", FORMATS)
class TestVersions:
    """Section 6."""

    def test_under_all_an_identity_is_the_key_and_its_version(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        first = [version("a", "v1"), version("b", None)]
        daily.seed(deliver(root, 1, first, columns=VERSIONED, file_format=file_format), versions=Versions.ALL)
        rows = [version("a", "v1", latest=False), version("a", "v2"), version("b", None), version("c", None)]
        manifest = deliver(root, 2, rows, columns=VERSIONED, file_format=file_format)
        assert versions_of(daily.run(manifest, versions=Versions.ALL)) == {("a", "v2", "new"), ("c", "null", "new")}

    def test_the_null_version_is_null_in_messages_and_not_new_every_day(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        rows = [version("a", None), version("b", ""), version("c", "null")]
        days = [deliver(root, day, rows, columns=VERSIONED, file_format=file_format) for day in (1, 2)]
        sent = daily.everything(days[0], versions=Versions.ALL)
        assert versions_of(sent) == {(key, "null", "new") for key in "abc"}
        assert daily.run(days[1], changes=BOTH, versions=Versions.ALL) == []

    def test_an_absent_column_is_another_thing_than_a_null_version(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"), file_format=file_format)
        error = refused(daily, manifest, versions=Versions.ALL, first_run="all")
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert "--versions current" in error.message
        assert keys(daily.everything(manifest)) == Counter("a")

    @pytest.mark.parametrize("versions", list(Versions))
    def test_a_delete_marker_is_no_object(
        self, versions: Versions, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        rows = [version("a", "v1"), version("gone", "v2", marker=True), version("gone", "v1", latest=False)]
        sent = daily.everything(deliver(root, 1, rows, columns=VERSIONED, file_format=file_format), versions=versions)
        live = {("a", "v1", "new")}
        assert versions_of(sent) == (live if versions is Versions.CURRENT else live | {("gone", "v1", "new")})
        assert daily.report.counts["not_live"] == (2 if versions is Versions.CURRENT else 1)

    @pytest.mark.parametrize("versions", list(Versions))
    def test_an_object_that_gets_a_delete_marker_is_deleted(
        self, versions: Versions, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        rows = [version("a", "v1"), version("b", "v1")]
        daily.seed(deliver(root, 1, rows, columns=VERSIONED, file_format=file_format), versions=versions)
        rows = [version("a", "v2", marker=True), version("b", "v1")]
        manifest = deliver(root, 2, rows, columns=VERSIONED, file_format=file_format)
        assert daily.run(manifest, changes=BOTH, versions=versions) == []
        assert daily.report.counts["deleted"] == 1

    def test_under_current_a_new_version_is_a_change_of_its_key(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, [version("a", "v1")], columns=VERSIONED, file_format=file_format))
        rows = [version("a", "v1", latest=False), version("a", "v2")]
        sent = daily.run(deliver(root, 2, rows, columns=VERSIONED, file_format=file_format), changes=BOTH)
        assert versions_of(sent) == {("a", "v2", "changed")}

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_the_latest_version_is_the_one_that_says_so_wherever_it_stands(
        self, place: int, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        """Within a key the rows are sorted by version id as text."""
        rows = [version("a", f"v{number}", latest=number == place) for number in range(3)]
        sent = daily.everything(deliver(root, 1, rows, columns=VERSIONED, file_format=file_format))
        assert versions_of(sent) == {("a", f"v{place}", "new")}

    def test_a_config_that_begins_or_ceases_to_list_versions_changes_nothing_under_current(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        live = [version("a", "v2"), version("b", None)]
        dead = [version("a", "v1", latest=False), version("c", "v9", marker=True), version("c", "v1", latest=False)]
        daily.seed(deliver(root, 1, live, file_format=file_format))
        with_versions = deliver(root, 2, [*dead[:1], *live, *dead[1:]], columns=VERSIONED, file_format=file_format)
        assert daily.run(with_versions, changes=BOTH) == []
        assert (daily.report.counts["unchanged"], daily.report.counts["not_live"]) == (2, 3)
        assert daily.run(deliver(root, 3, live, file_format=file_format), changes=BOTH) == []
        assert daily.report.counts["unchanged"] == 2

    def test_that_a_config_begins_to_list_versions_is_said(
        self, file_format: FileFormat, daily: FilePipeline, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        daily.seed(deliver(root, 1, objects("a"), file_format=file_format))
        caplog.clear()
        daily.run(deliver(root, 2, [version("a", "v1")], columns=VERSIONED, file_format=file_format))
        assert "version" in caplog.text

    def test_a_pipeline_is_of_one_kind_of_identity_unless_it_is_told_to_change(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        rows = [version("a", "v2"), version("a", "v1", latest=False)]
        first = deliver(root, 1, rows, columns=VERSIONED, file_format=file_format)
        daily.seed(first)
        second = deliver(root, 2, [*rows, version("b", "v1")], columns=VERSIONED, file_format=file_format)
        error = refused(daily, second, versions=Versions.ALL)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert f"--previous {first}" in error.message
        assert versions_of(daily.run(second, versions=Versions.ALL, previous=first)) == {("b", "v1", "new")}


def versions_of(messages: list[Message]) -> set[tuple[str, str, str]]:
    found = [(message["key"], message["version_id"], message["change"]) for message in messages]
    assert len(set(found)) == len(found)
    return set(found)


class TestASeriousReader:
    """Section 7."""

    @pytest.mark.parametrize("damage", ["flip", "truncate", "append", "remove", "swap"])
    def test_every_files_size_and_md5_are_verified_before_a_row_of_it_counts(
        self, damage: str, daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"), objects("b"))
        first, second = sorted((manifest.parent.parent / "data").iterdir())
        data = second.read_bytes()
        match damage:
            case "flip":
                flip(second, len(data) // 2)
            case "truncate":
                second.write_bytes(data[:-1])
            case "append":
                second.write_bytes(data + b"\0")
            case "remove":
                second.unlink()
            case _:
                second.write_bytes(first.read_bytes())
        error = refused(daily, manifest, first_run="all")
        assert (error.kind, error.exit_code) == ("IntegrityError", 7)
        assert second.name in str(error)
        second.write_bytes(data)
        assert keys(daily.everything(manifest)) == Counter("ab")

    @pytest.mark.parametrize(("field", "value"), [("size", 1), ("MD5checksum", "0" * 32)])
    def test_size_and_md5_are_both_compared(self, field: str, value: object, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document["files"][0].update({field: value}))
        error = refused(daily, manifest, first_run="all")
        assert error.exit_code == 7
        assert f"the manifest says {value}" in error.message

    @pytest.mark.parametrize("file_format", FORMATS)
    @pytest.mark.parametrize("gone", ["bucket", "key", "version_id", "is_latest", "is_delete_marker"])
    def test_a_needed_column_that_vanished_is_refused_never_an_empty_result(
        self, gone: str, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        rows = [version("a", "v1"), version("b", "v1", marker=True)]
        daily.seed(deliver(root, 1, rows, columns=VERSIONED, file_format=file_format))
        columns = [name for name in VERSIONED if name != gone]
        error = refused(daily, deliver(root, 2, rows, columns=columns, file_format=file_format))
        assert (type(error), error.exit_code) == (IntegrityError, 7)
        assert gone in error.message
        assert "is missing" in error.message

    @pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
    def test_files_of_one_delivery_may_differ_in_columns_that_tell_no_changes(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        more, fewer = [*UNKNOWN, *CURRENT], ["e_tag", "key", "size", "bucket"]
        contents = [
            data_files.write(file_format, more, [[row | FULL for row in objects("a")]]),
            data_files.write(file_format, fewer, [objects("b")]),
        ]
        manifest = data_files.deliver(root, 1, file_format, data_files.file_schema(file_format, more), contents)
        sent = daily.everything(manifest)
        assert {message["key"]: message["e_tag"] for message in sent} == {
            "a": data_files.md5(b"a"),
            "b": data_files.md5(b"b"),
        }
        assert [message["last_modified_date"] for message in sent] == ["2026-03-02T00:00:00.000Z", None]

    @pytest.mark.parametrize("file_format", [FileFormat.PARQUET, FileFormat.ORC])
    @pytest.mark.parametrize("gone", ["e_tag", "size"])
    def test_one_file_that_lacks_what_tells_changes_is_refused(
        self, gone: str, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        fewer = [name for name in CURRENT if name != gone]
        contents = [
            data_files.write(file_format, columns, [objects(key)]) for key, columns in (("a", CURRENT), ("b", fewer))
        ]
        manifest = data_files.deliver(root, 1, file_format, data_files.file_schema(file_format, CURRENT), contents)
        error = refused(daily, manifest, first_run="all")
        assert (type(error), error.exit_code) == (IntegrityError, 7)
        assert gone in error.message
        assert "1-1." in str(error.where)

    def test_an_empty_file_list_is_suspicious(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a", "b")))
        empty = deliver(root, 2)
        error = refused(daily, empty)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert "--max-shrink 1" in error.message
        assert daily.run(empty, max_shrink=1.0) == []
        assert daily.report.counts["deleted"] == 2
        assert keys(daily.run(deliver(root, 3, objects("a")))) == Counter("a"), "known to be gone, so new again"

    def test_an_empty_file_list_says_nothing_of_the_columns(self, daily: FilePipeline, root: Path) -> None:
        columns = ["bucket", "key", "size"]
        daily.seed(deliver(root, 1, objects("a"), columns=columns))
        assert daily.run(deliver(root, 2, columns=columns), max_shrink=1.0, changes=BOTH) == []
        assert keys(daily.run(deliver(root, 3, objects("a"), columns=columns), changes=BOTH)) == Counter("a")

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_a_file_without_rows_is_read_like_any_other(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, [], objects("a"), [], file_format=file_format))
        assert keys(daily.run(deliver(root, 2, objects("a"), [], objects("b"), file_format=file_format))) == Counter(
            "b"
        )

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_files_without_any_row_are_as_suspicious_as_no_files(
        self, file_format: FileFormat, daily: FilePipeline, root: Path
    ) -> None:
        daily.seed(deliver(root, 1, objects("a"), file_format=file_format))
        empty = deliver(root, 2, [], [], file_format=file_format)
        assert refused(daily, empty).exit_code == 9
        assert daily.run(empty, max_shrink=1.0) == []
        assert daily.report.counts["deleted"] == 1

    def test_a_list_that_shrank_sharply_is_suspicious(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, numbered(10)))
        shrunk = deliver(root, 2, numbered(4), objects("new"))
        assert keys(daily.run(shrunk)) == Counter(["new"]), "half of them is allowed"
        shrunk = deliver(root, 3, numbered(2))
        error = refused(daily, shrunk)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert "2 objects, the one before 5" in error.message
        assert "--max-shrink" in error.message
        assert daily.run(shrunk, max_shrink=0.6) == []
        assert daily.report.counts["deleted"] == 3

    def test_against_a_previous_delivery_too(self, daily: FilePipeline, root: Path) -> None:
        previous, shrunk = deliver(root, 1, numbered(10)), deliver(root, 2, numbered(4))
        assert refused(daily, shrunk, previous=previous).exit_code == 9
        assert daily.run(shrunk, previous=previous, max_shrink=0.6) == []

    def test_a_previous_delivery_that_cannot_be_trusted_is_refused_not_taken_for_less(
        self, daily: FilePipeline, root: Path
    ) -> None:
        previous = deliver(root, 1, [row | {"e_tag": b"\xff"} for row in numbered(10)])
        error = refused(daily, deliver(root, 2, numbered(10)), previous=previous)
        assert (type(error), error.exit_code) == (RefusedError, 9)

    def test_a_file_that_is_named_twice_is_read_once(self, daily: FilePipeline, root: Path) -> None:
        manifest = deliver(root, 1, objects("a"), objects("b"))
        edit_manifest(manifest, lambda document: document["files"].append(document["files"][0]))
        assert keys(daily.everything(manifest)) == Counter("ab")
        assert (daily.report.counts["listed"], daily.report.counts["duplicates"]) == (2, 0)

    @pytest.mark.parametrize("other", [{"size": 1}, {"MD5checksum": "0" * 32}])
    def test_a_file_that_is_named_twice_with_other_contents_is_refused(
        self, other: dict[str, Any], daily: FilePipeline, root: Path
    ) -> None:
        manifest = deliver(root, 1, objects("a"))
        edit_manifest(manifest, lambda document: document["files"].append(document["files"][0] | other))
        error = refused(daily, manifest, first_run="all")
        assert (type(error), error.exit_code) == (IntegrityError, 7)

    def test_a_missing_previous_run_is_a_question_never_everything_is_new(
        self, daily: FilePipeline, root: Path
    ) -> None:
        error = refused(daily, deliver(root, 1, objects("a")))
        assert (type(error), error.exit_code) == (RefusedError, 9)
        for way in ("--first-run seed", "--first-run all", "--previous"):
            assert way in error.message

    def test_another_inventory_configuration_is_a_question(self, daily: FilePipeline, root: Path) -> None:
        first = deliver(root, 1, objects("a"))
        daily.seed(first)
        schema = data_files.file_schema(FileFormat.CSV, CURRENT)
        data = data_files.write_csv(CURRENT, [objects("a", "b")])
        second = data_files.deliver(root, 2, FileFormat.CSV, schema, [data], config_id="weekly")
        error = refused(daily, second)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        for part in ("inventory id", "'weekly'", "'daily'", f"--previous {first}"):
            assert part in error.message
        assert keys(daily.run(second, previous=first)) == Counter("b")
        third = data_files.deliver(root, 3, FileFormat.CSV, schema, [data], config_id="weekly")
        assert daily.run(third) == [], "the pipeline has changed over"

    def test_another_source_bucket_is_refused(self, daily: FilePipeline, root: Path) -> None:
        daily.seed(deliver(root, 1, objects("a")))
        schema = data_files.file_schema(FileFormat.CSV, CURRENT)
        other = data_files.deliver(root, 2, FileFormat.CSV, schema, [], bucket="other-bucket")
        error = refused(daily, other, max_shrink=1.0)
        assert (type(error), error.exit_code) == (RefusedError, 9)
        assert "another --pipeline" in error.message


SAMPLES: Final = Path(__file__).parents[2] / "shared" / "samples" / "umccr_filemanager"
SAMPLE_BUCKET: Final = "filemanager-inventory-test"
_EMPTY: Final = "d41d8cd98f00b204e9800998ecf8427e"
_TEST: Final = "d8e8fca2dc0f896fd7cb4cb0031ba249"
SAMPLE_ROWS: Final = [
    ("inventory-test/", None, True, False, 0, "22:37:48", _EMPTY, "STANDARD"),
    ("inventory-test/key1", None, False, False, 0, "22:38:00", _EMPTY, "STANDARD"),
    ("inventory-test/key1", "tpinzcbxOfWpZsmjvVgdHEvSohsY4TA0", True, False, 5, "22:44:22", _TEST, "STANDARD"),
    ("inventory-test/key2", "gdN1exfZmD7m713patv8dlQ7fTNwle3v", True, True, None, "22:46:14", None, None),
    ("inventory-test/key2", "zl_C7NLxrkBsMFD5HQUdybrmuV9VpvkN", False, False, 5, "22:45:34", _TEST, "STANDARD"),
]
ALL_VERSIONS: Final = ["csv_inventory", "orc_inventory", "parquet_inventory"]
NO_VERSIONS: Final = "csv_inventory_no_version"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real deliveries are not here")
class TestSamples:
    """Deliveries that AWS wrote, one bucket in each format."""

    def rows(self, name: str, tmp_path: Path) -> pa.Table:
        landing = Landing(AwsSettings(), tmp_path)
        delivery = landing.open(SAMPLES / f"{name}_manifest.json")
        landed = landing.land(delivery, 0)
        landing.close()
        assert (columns_of(landed) == set(OBJECT_SCHEMA.names)) == (name != NO_VERSIONS)
        return pa.concat_tables(arrow(rows) for rows in read_rows(landed, OBJECT_SCHEMA.names, ROOM))

    def sample_row(self, row: tuple[Any, ...]) -> Row:
        names = ["key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag"]
        values = dict(zip([*names, "storage_class"], row, strict=True))
        moment = datetime.fromisoformat(f"2024-05-06T{values['last_modified_date']}+00:00")
        rest = {"bucket": SAMPLE_BUCKET, "intelligent_tiering_access_tier": None}
        return values | rest | {"last_modified_date": moment}

    @pytest.mark.parametrize("name", ALL_VERSIONS)
    def test_all_versions_give_the_expected_rows(self, name: str, tmp_path: Path) -> None:
        assert self.rows(name, tmp_path).to_pylist() == [self.sample_row(row) for row in SAMPLE_ROWS]

    def test_current_versions_give_the_expected_rows(self, tmp_path: Path) -> None:
        unversioned = {"version_id": None, "is_latest": None, "is_delete_marker": None}
        live = [self.sample_row(SAMPLE_ROWS[number]) | unversioned for number in (0, 2)]
        assert self.rows(NO_VERSIONS, tmp_path).to_pylist() == live

    @pytest.mark.parametrize("versions", list(Versions))
    def test_all_three_formats_give_the_same_fingerprints(self, versions: Versions, tmp_path: Path) -> None:
        scheme = Scheme()
        prints = [
            pl.DataFrame(pl.from_arrow(self.rows(name, tmp_path))).select(scheme.expressions(versions))
            for name in ALL_VERSIONS
        ]
        assert all(one.equals(prints[0]) for one in prints)
        assert prints[0].n_unique() == 5

    @pytest.mark.parametrize("name", [*ALL_VERSIONS, NO_VERSIONS])
    def test_the_live_objects_are_sent(self, name: str, daily: FilePipeline) -> None:
        sent = daily.everything(SAMPLES / f"{name}_manifest.json")
        found = {(message["key"], message["version_id"], message["size"], message["e_tag"]) for message in sent}
        key1 = None if name == NO_VERSIONS else "tpinzcbxOfWpZsmjvVgdHEvSohsY4TA0"
        assert found == {("inventory-test/", None, 0, _EMPTY), ("inventory-test/key1", key1, 5, _TEST)}

    @pytest.mark.parametrize("name", ALL_VERSIONS)
    def test_all_versions_are_sent_but_the_delete_marker(self, name: str, daily: FilePipeline) -> None:
        sent = daily.everything(SAMPLES / f"{name}_manifest.json", versions=Versions.ALL)
        assert {message["version_id"] for message in sent} == {
            "null",
            "tpinzcbxOfWpZsmjvVgdHEvSohsY4TA0",
            "zl_C7NLxrkBsMFD5HQUdybrmuV9VpvkN",
        }
        assert len(sent) == 4

    @pytest.mark.parametrize(("before", "after"), list(itertools.permutations([*ALL_VERSIONS, NO_VERSIONS], 2)))
    def test_none_of_them_has_news_for_another(self, before: str, after: str, daily: FilePipeline) -> None:
        first, second = (SAMPLES / f"{name}_manifest.json" for name in (before, after))
        assert daily.run(second, previous=first, changes=BOTH) == []
        assert (daily.report.counts["unchanged"], daily.report.counts["deleted"]) == (2, 0)
