import gzip
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from inventory_enqueue.delivery.writing import COLUMNS, Delivery, InventoryConfig, write_delivery
from inventory_enqueue.demo.bucket import Bucket
from inventory_enqueue.demo.odd_keys import MAX_KEY_BYTES, ODD_KEYS
from inventory_enqueue.manifest import FileFormat

ROOT = Path(__file__).parent.parent
FIXTURES = ("duplicates", "odd-keys", "plain-40", "versions")
CONFIG = InventoryConfig("source", "destination", "some/prefix", "all")
CREATED = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)


def day_of(bucket: Bucket, day: int) -> pl.DataFrame:
    return bucket.frame(day, 0, bucket.rows(day))


def read(delivery_root: Path, manifest_key: str) -> tuple[dict[str, Any], list[pa.Table]]:
    manifest = json.loads((delivery_root / manifest_key).read_bytes())
    return manifest, [pq.read_table(delivery_root / file["key"]) for file in manifest["files"]]


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class TestBucket:
    def test_the_same_seed_gives_the_same_rows_and_another_seed_other_ones(self) -> None:
        assert day_of(Bucket("b", 1000, seed=7), 2).equals(day_of(Bucket("b", 1000, seed=7), 2))
        keys = set(day_of(Bucket("b", 1000, seed=7), 1)["key"])
        assert keys.isdisjoint(day_of(Bucket("b", 1000, seed=8), 1)["key"])

    def test_rows_stay_the_same_across_versions_of_the_libraries(self) -> None:
        text = day_of(Bucket("b", 1000), 2).write_csv()
        assert hashlib.sha256(text.encode()).hexdigest() == (
            "b01ea407d5d22bfdd5abed0d385eb2207583b47fd36223c6522a229b19016ebd"
        )

    @pytest.mark.parametrize("objects", [1, 2, 3, 10, 997, 1000, 4096])
    @pytest.mark.parametrize("day", [1, 2])
    def test_a_listing_holds_each_object_once(self, objects: int, day: int) -> None:
        keys = day_of(Bucket("b", objects), day)["key"]
        assert keys.n_unique() == len(keys) == Bucket("b", objects).rows(day)

    def test_a_listing_does_not_depend_on_how_it_is_cut(self) -> None:
        bucket = Bucket("b", 1000)
        groups = [group for file in bucket.files(2, 300, 77) for group in file]
        assert pl.concat(groups).equals(day_of(bucket, 2))
        assert [len(group) for group in groups] == [77, 77, 77, 69] * 3 + [77, 30]

    def test_days_are_in_other_orders(self) -> None:
        bucket = Bucket("b", 10_000)
        first, second = (set(bucket.frame(day, 0, 1000)["key"]) for day in (1, 2))
        assert len(first & second) < 250

    @pytest.mark.parametrize("day", [2, 3, 9])
    def test_changes_are_exact(self, day: int) -> None:
        bucket = Bucket("b", 20_000)
        before, after = day_of(bucket, day - 1), day_of(bucket, day)
        both = before.join(after, on="key", suffix="_after")
        differs = pl.any_horizontal(pl.col(name) != pl.col(f"{name}_after") for name in ("e_tag", "size"))
        changed = both.filter(differs)
        new = after.join(before, on="key", how="anti")
        deleted = before.join(after, on="key", how="anti")
        assert (len(new), len(changed), len(deleted)) == (200, 100, 60)
        assert set(new["key"]) == set(bucket.new_keys(day))
        assert set(changed["key"]) == set(bucket.changed_keys(day))
        assert set(deleted["key"]) == set(bucket.deleted_keys(day))
        assert (changed["e_tag"] != changed["e_tag_after"]).all()
        assert (changed["size"] != changed["size_after"]).all()
        since = pl.lit(bucket.created(day - 1))
        until = pl.lit(bucket.created(day))
        for dates in (new["last_modified_date"], changed["last_modified_date_after"]):
            assert dates.to_frame("date").select((pl.col("date") >= since) & (pl.col("date") < until)).to_series().all()

    def test_keys_are_like_those_of_real_buckets(self) -> None:
        keys = day_of(Bucket("b", 100_000), 1)["key"]
        lengths = keys.str.len_bytes()
        assert lengths.min() == 58
        assert lengths.max() == 146
        assert 0.01 < keys.str.contains(r"[^0-9A-Za-z/=._-]").mean() < 0.05  # type: ignore[operator]

    def test_refuses_days_that_it_cannot_tell(self) -> None:
        bucket = Bucket("b", 1000, deleted_ratio=0.1)
        assert bucket.last_day == 6
        assert bucket.rows(6) == 1000 + 5 * 10 - 5 * 100
        for day in (0, 7):
            with pytest.raises(ValueError, match=f"day: {day} is not within 1 and 6"):
                bucket.rows(day)

    def test_the_shuffle_of_the_largest_bucket_fits_64_bits(self) -> None:
        bucket = Bucket("b", 2**31)
        last = bucket.frame(2, bucket.rows(2) - 1000, bucket.rows(2))
        assert last["key"].n_unique() == 1000
        step, offset = bucket._shuffle(2)  # noqa: SLF001
        assert math.log2(step * bucket.rows(2) + offset) < 64


class TestDelivery:
    @pytest.fixture
    def delivery(self, tmp_path: Path) -> Delivery:
        bucket = Bucket("source", 1000)
        return write_delivery(tmp_path, CONFIG, CREATED, bucket.files(1, 400, 150))

    def test_lies_where_s3_puts_it(self, delivery: Delivery) -> None:
        base = "some/prefix/source/all"
        assert delivery.manifest_uri == f"s3://destination/{base}/2026-03-02T01-00Z/manifest.json"
        assert delivery.manifest == delivery.root / f"{base}/2026-03-02T01-00Z/manifest.json"
        assert sorted(delivery.keys) == sorted(
            str(path.relative_to(delivery.root)) for path in delivery.root.rglob("*") if path.is_file()
        )
        assert delivery.keys[-1] == f"{base}/2026-03-02T01-00Z/manifest.checksum"
        symlink = delivery.root / f"{base}/hive/dt=2026-03-02-01-00/symlink.txt"
        assert symlink.read_text() == "".join(f"s3://destination/{file.key}\n" for file in delivery.files)

    def test_checksum_is_the_manifests_md5(self, delivery: Delivery) -> None:
        checksum = (delivery.root / delivery.checksum_key).read_bytes()
        assert checksum == f"{md5(delivery.manifest.read_bytes())}\n".encode()

    def test_manifest(self, delivery: Delivery) -> None:
        manifest = json.loads(delivery.manifest.read_bytes())
        files = manifest.pop("files")
        assert manifest == {
            "sourceBucket": "source",
            "destinationBucket": "arn:aws:s3:::destination",
            "version": "2016-11-30",
            "creationTimestamp": "1772413200000",
            "fileFormat": "Parquet",
            "fileSchema": "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);"
            "  optional int64 size;  optional int64 last_modified_date (TIMESTAMP(MILLIS,true));"
            "  optional binary e_tag (STRING);  optional binary storage_class (STRING);"
            "  optional boolean is_multipart_uploaded;  optional binary replication_status (STRING);"
            "  optional binary encryption_status (STRING);}",
        }
        for file in files:
            data = (delivery.root / file["key"]).read_bytes()
            assert (file["size"], file["MD5checksum"]) == (len(data), md5(data))

    def test_data_files_are_like_s3s(self, delivery: Delivery) -> None:
        assert [file.rows for file in delivery.files] == [400, 400, 200]
        parquet = pq.ParquetFile(delivery.root / delivery.files[0].key)
        assert parquet.metadata.format_version == "1.0"
        assert parquet.metadata.metadata is None
        assert [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)] == [150, 150, 100]
        schema = parquet.schema_arrow
        assert [field.name for field in schema if not field.nullable] == ["bucket", "key"]
        assert {field.name: field.type for field in schema}.items() <= COLUMNS.items()
        for number in range(len(schema)):
            column = parquet.metadata.row_group(0).column(number)
            assert column.compression == "SNAPPY"
            assert column.is_stats_set
            assert column.has_column_index
            assert column.has_offset_index

    def test_rows_come_back(self, delivery: Delivery) -> None:
        tables = read(delivery.root, delivery.manifest_key)[1]
        frames = [pl.DataFrame(pl.from_arrow(table)) for table in tables]
        assert pl.concat(frames).equals(day_of(Bucket("source", 1000), 1))

    def test_columns_come_in_s3s_order_and_all_are_known(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"size": [1], "key": ["k"], "version_id": [None], "bucket": ["source"]})
        delivery = write_delivery(tmp_path, CONFIG, CREATED, [[frame]])
        assert read(tmp_path, delivery.manifest_key)[1][0].column_names == ["bucket", "key", "version_id", "size"]
        with pytest.raises(ValueError, match=r"not in S3 Inventory: \['etag'\], missing: \['bucket'\]"):
            write_delivery(tmp_path, CONFIG, CREATED, [[frame.drop("bucket").with_columns(etag=pl.lit("e"))]])

    def test_takes_tables_that_polars_cannot_hold(self, tmp_path: Path) -> None:
        keys = pa.array([b"\xff"]).view(pa.string())
        delivery = write_delivery(tmp_path, CONFIG, CREATED, [[pa.table({"bucket": ["source"], "key": keys})]])
        table = read(tmp_path, delivery.manifest_key)[1][0]
        assert table["key"].cast(pa.binary()).to_pylist() == [b"\xff"]

    def test_holds_frames_of_two_files_at_most(self, tmp_path: Path) -> None:
        under_way: set[int] = set()
        most = 0

        def file(number: int) -> Iterator[pl.DataFrame]:
            nonlocal most
            under_way.add(number)
            for group in range(3):
                most = max(most, len(under_way))
                yield pl.DataFrame({"bucket": ["source"], "key": [f"{number}/{group}"]})
            under_way.remove(number)

        delivery = write_delivery(tmp_path, CONFIG, CREATED, (file(number) for number in range(20)))
        assert delivery.rows == 60
        assert most <= 2


class TestFormats:
    ROWS = pl.DataFrame(
        {
            "bucket": ["source"] * 3,
            "key": ["a b+c%/é", 'say "hi",\n', "k"],
            "version_id": [None, "v1", "v2"],
            "is_latest": [True, False, None],
            "is_delete_marker": [False, True, None],
            "size": [0, None, 1 << 40],
            "last_modified_date": [CREATED, None, datetime(2024, 5, 7, 1, 2, 3, 45_000, tzinfo=UTC)],
            "e_tag": ["e", None, 'q"'],
            "lifecycle_expiration_date": [None, CREATED, None],
        },
        schema_overrides={
            "last_modified_date": pl.Datetime("ms", "UTC"),
            "lifecycle_expiration_date": pl.Datetime("ms", "UTC"),
        },
    )
    SCHEMAS: ClassVar = {
        FileFormat.CSV: "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, "
        "LifecycleExpirationDate",
        FileFormat.ORC: "struct<bucket:string,key:string,version_id:string,is_latest:boolean,is_delete_marker:boolean,"
        "size:bigint,last_modified_date:timestamp,e_tag:string,lifecycle_expiration_date:timestamp>",
        FileFormat.PARQUET: "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);"
        "  optional binary version_id (STRING);  optional boolean is_latest;  optional boolean is_delete_marker;"
        "  optional int64 size;  optional int64 last_modified_date (TIMESTAMP(MILLIS,true));"
        "  optional binary e_tag (STRING);  optional int64 lifecycle_expiration_date (TIMESTAMP(MILLIS,true));}",
    }

    def write(self, root: Path, file_format: FileFormat, *, gzip_members: bool = False) -> tuple[dict[str, Any], Path]:
        files = [[self.ROWS, self.ROWS.head(1)]]
        delivery = write_delivery(root, CONFIG, CREATED, files, file_format=file_format, gzip_members=gzip_members)
        assert delivery.rows == 4
        return json.loads(delivery.manifest.read_bytes()), root / delivery.files[0].key

    @pytest.mark.parametrize("file_format", list(FileFormat))
    def test_the_manifest_names_the_format_and_its_schema_as_s3_does(
        self, file_format: FileFormat, tmp_path: Path
    ) -> None:
        manifest, path = self.write(tmp_path, file_format)
        assert (manifest["fileFormat"], manifest["fileSchema"]) == (file_format, self.SCHEMAS[file_format])
        assert path.name.partition(".")[2] == {"CSV": "csv.gz", "ORC": "orc", "Parquet": "parquet"}[file_format]
        assert manifest["files"][0]["MD5checksum"] == md5(path.read_bytes())

    def test_orc_is_zlib_with_times_that_are_utc_without_a_zone(self, tmp_path: Path) -> None:
        file = pyarrow.orc.ORCFile(self.write(tmp_path, FileFormat.ORC)[1])
        assert file.compression == "ZLIB"
        table = file.read()
        assert table.schema.field("last_modified_date").type == pa.timestamp("ns")
        times = [name for name, kind in self.ROWS.schema.items() if kind == pl.Datetime("ms", "UTC")]
        back = pl.DataFrame(pl.from_arrow(table)).with_columns(
            pl.col(times).dt.cast_time_unit("ms").dt.replace_time_zone("UTC")
        )
        assert back.equals(pl.concat([self.ROWS, self.ROWS.head(1)]))

    @pytest.mark.parametrize("gzip_members", [False, True])
    def test_csv_has_no_header_quotes_every_field_and_encodes_keys(self, gzip_members: bool, tmp_path: Path) -> None:  # noqa: FBT001
        data = self.write(tmp_path, FileFormat.CSV, gzip_members=gzip_members)[1].read_bytes()
        assert data.count(b"\x1f\x8b\x08\0\0\0\0\0") == 1 + gzip_members
        first = '"source","a+b%2Bc%25/%C3%A9","","true","false","0","2026-03-02T01:00:00.000Z","e",""\n'
        assert gzip.decompress(data).decode() == (
            first + '"source","say+%22hi%22%2C%0A","v1","false","true","","","","2026-03-02T01:00:00.000Z"\n'
            f'"source","k","v2","","","{1 << 40}","2024-05-07T01:02:03.045Z","q""",""\n' + first
        )

    @pytest.mark.parametrize("file_format", list(FileFormat))
    def test_the_same_rows_give_the_same_bytes(self, file_format: FileFormat, tmp_path: Path) -> None:
        one, other = (self.write(tmp_path / name, file_format)[1] for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_odd_keys_are_legal() -> None:
    assert len(set(ODD_KEYS)) == len(ODD_KEYS)
    assert all(1 <= len(key.encode()) <= MAX_KEY_BYTES for key in ODD_KEYS)
    assert sum(len(key.encode()) == MAX_KEY_BYTES for key in ODD_KEYS) == 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fixtures")
    subprocess.run([sys.executable, ROOT / "scripts/make_fixtures.py", out], check=True, cwd=ROOT)
    return out


class TestFixtures:
    @pytest.mark.parametrize("name", FIXTURES)
    def test_are_what_the_script_makes(self, made: Path, name: str) -> None:
        expected = (made / name / "expected.json").read_bytes()
        committed = ROOT / "fixtures" / name
        assert (committed / "expected.json").read_bytes() == expected
        for manifest_key in json.loads(expected)["manifests"]:
            (manifest, tables), (made_manifest, made_tables) = (
                read(folder, manifest_key) for folder in (committed, made / name)
            )
            assert tables == made_tables
            # Sizes and MD5s are another pyarrow's right.
            names, made_names = ([file["key"] for file in m.pop("files")] for m in (manifest, made_manifest))
            assert (manifest, names) == (made_manifest, made_names)

    @pytest.mark.parametrize("name", FIXTURES)
    def test_expected_keys_are_those_of_a_plain_set_difference(self, name: str) -> None:
        folder = ROOT / "fixtures" / name
        expected = json.loads((folder / "expected.json").read_bytes())
        before, after = (live(read(folder, key)[1]) for key in expected["manifests"])
        assert expected["new"] == sorted(after.keys() - before.keys())
        assert expected["deleted"] == sorted(before.keys() - after.keys())
        assert expected["changed"] == sorted(
            key for key in before.keys() & after.keys() if not after[key] <= before[key]
        )

    @pytest.mark.parametrize("name", FIXTURES)
    def test_are_small_and_whole(self, name: str) -> None:
        folder = ROOT / "fixtures" / name
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 40_000
        for manifest in folder.rglob("manifest.json"):
            assert (manifest.parent / "manifest.checksum").read_text().strip() == md5(manifest.read_bytes())
            for file in json.loads(manifest.read_bytes())["files"]:
                assert md5((folder / file["key"]).read_bytes()) == file["MD5checksum"]


def live(tables: list[pa.Table]) -> dict[str, set[tuple[str, int]]]:
    """The contents (e_tag and size) that each live key was listed with."""
    contents: dict[str, set[tuple[str, int]]] = {}
    for table in tables:
        for row in table.to_pylist():
            if row.get("is_latest", True) and not row.get("is_delete_marker", False):
                contents.setdefault(row["key"], set()).add((row["e_tag"], row["size"]))
    return contents
