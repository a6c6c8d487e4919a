"""manifest.json and manifest.checksum: parsed exactly, or refused with the field's name; and the URIs to them."""

from __future__ import annotations

import copy
import hashlib
import json
import string
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.manifest import FileFormat, InventoryFile, Manifest, check_checksum
from inventory_enqueue.uris import Location, S3Url, is_bucket_name, parse_location

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
MANIFESTS = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*manifest*.json"))

WHERE = "s3://inventory/p/manifest.json"
MD5_A, MD5_B = "0123456789abcdef" * 2, "fedcba9876543210" * 2
DOCUMENT: dict[str, Any] = {
    "sourceBucket": "source-bucket",
    "destinationBucket": "arn:aws:s3:::inventory",
    "version": "2016-11-30",
    "creationTimestamp": "1772413200000",
    "fileFormat": "Parquet",
    "fileSchema": "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);}",
    "files": [
        {"key": "p/source-bucket/daily/data/one.parquet", "size": 4277, "MD5checksum": MD5_A},
        {"key": "p/source-bucket/daily/data/two.parquet", "size": 0, "MD5checksum": MD5_B},
    ],
}


def parse(document: object) -> Manifest:
    return Manifest.parse(json.dumps(document).encode(), where=WHERE)


def outcome(data: bytes) -> Manifest | IntegrityError:
    try:
        return Manifest.parse(data, where=WHERE)
    except IntegrityError as error:
        return error


def changed(**fields: object) -> dict[str, Any]:
    return {**copy.deepcopy(DOCUMENT), **fields}


def with_file(**fields: object) -> dict[str, Any]:
    return changed(files=[DOCUMENT["files"][0], {**DOCUMENT["files"][1], **fields}])


# ---- Good manifests


def test_every_field_is_read_in_its_own_type() -> None:
    data = json.dumps(DOCUMENT, indent=2).encode()
    manifest = Manifest.parse(data, where=WHERE)
    assert manifest == Manifest(
        source_bucket="source-bucket",
        destination_bucket="inventory",
        creation_timestamp=datetime(2026, 3, 2, 1, 0, tzinfo=UTC),
        file_format=FileFormat.PARQUET,
        file_schema=DOCUMENT["fileSchema"],
        files=(
            InventoryFile("p/source-bucket/daily/data/one.parquet", 4277, MD5_A),
            InventoryFile("p/source-bucket/daily/data/two.parquet", 0, MD5_B),
        ),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
    )
    assert manifest.total_bytes == 4277
    assert [file.name for file in manifest.files] == ["one.parquet", "two.parquet"]


@pytest.mark.parametrize("name", ["CSV", "ORC", "Parquet"])
def test_all_three_formats_are_known_by_their_exact_names(name: str) -> None:
    assert parse(changed(fileFormat=name)).file_format == name


@pytest.mark.parametrize(
    "bucket", ["inventory", "arn:aws:s3:::inventory", "arn:aws-cn:s3:::inventory", "arn:aws-us-gov:s3:::inventory"]
)
def test_the_destination_is_an_arn_of_any_partition_or_a_bare_name(bucket: str) -> None:
    assert parse(changed(destinationBucket=bucket)).destination_bucket == "inventory"


@pytest.mark.parametrize("timestamp", ["1772413200123", 1772413200123])
def test_the_creation_timestamp_is_a_text_or_a_number_of_milliseconds(timestamp: object) -> None:
    created = parse(changed(creationTimestamp=timestamp)).creation_timestamp
    assert created == datetime(2026, 3, 2, 1, 0, 0, 123_000, tzinfo=UTC)


def test_the_md5_of_a_data_file_is_kept_in_lower_case() -> None:
    assert parse(with_file(MD5checksum=MD5_B.upper())).files[1].md5_checksum == MD5_B


def test_unknown_fields_and_an_empty_file_list_are_no_matter_of_the_parser() -> None:
    manifest = parse(changed(files=[], inventoryVersion="2027", extra={"a": [1]}))
    assert (manifest.files, manifest.total_bytes) == ((), 0)


def test_the_md5_is_that_of_the_bytes_not_of_their_meaning() -> None:
    compact, spaced = (json.dumps(DOCUMENT, indent=indent).encode() for indent in (None, 2))
    one, other = (Manifest.parse(data, where=WHERE) for data in (compact, spaced))
    assert one.files == other.files
    assert one.md5 != other.md5


@pytest.mark.skipif(not MANIFESTS, reason=f"there are no samples in {SAMPLES}")
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_s3_wrote_parse_and_fit_their_checksum_files(name: str) -> None:
    path = SAMPLES / name
    manifest = Manifest.parse(path.read_bytes(), where=name)
    checksum = path.with_suffix(".checksum")
    check_checksum(path.read_bytes(), checksum.read_bytes(), where=name, checksum_where=checksum.name)
    assert (manifest.source_bucket, manifest.destination_bucket) == ("filemanager-inventory-test",) * 2
    assert manifest.creation_timestamp == datetime(2024, 5, 7, 1, 0, tzinfo=UTC)
    (file,) = manifest.files
    data = (path.parent / file.name).read_bytes()
    assert (file.size, file.md5_checksum) == (len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
    assert file.name.endswith(
        {FileFormat.CSV: ".csv.gz", FileFormat.ORC: ".orc", FileFormat.PARQUET: ".parquet"}[manifest.file_format]
    )


# ---- Bad manifests


@pytest.mark.parametrize("name", [name for name in DOCUMENT if name != "version"])
def test_a_missing_field_is_named(name: str) -> None:
    document = changed()
    del document[name]
    with pytest.raises(IntegrityError) as refused:
        parse(document)
    assert str(refused.value) == f"{WHERE}: the field {name} is missing"


@pytest.mark.parametrize("name", ["key", "size", "MD5checksum"])
def test_a_missing_field_of_a_data_file_is_named_with_its_number(name: str) -> None:
    document = changed()
    del document["files"][1][name]
    with pytest.raises(IntegrityError) as refused:
        parse(document)
    assert str(refused.value) == f"{WHERE}: files[1]: the field {name} is missing"


BAD_FIELDS: dict[str, list[object]] = {
    "sourceBucket": [None, 1, "", "a", "../up", "a/b", "a..b", ["b"], "b\n", "-ab", "bücket"],
    "destinationBucket": [None, 7, "", "arn:aws:s3:::", "arn:aws:s3:::a/b", "arn:aws:s3:::.."],
    "fileFormat": [None, "", "parquet", "PARQUET", "Avro", 1, ["CSV"], {}],
    "fileSchema": [None, "", 5, []],
    "files": [None, {}, "files", [1], [None], [[]], 3],
    "creationTimestamp": [
        None,
        "",
        "today",
        "2026-03-02T01:00:00Z",
        [],
        {},
        "1e12",
        10**18,
        10**30,
        -(10**18),
        "9" * 5000,
    ],
}
BAD_FILE_FIELDS: dict[str, list[object]] = {
    "key": [None, "", 1, ["k"]],
    "size": [None, "12", -1, 1.5, True, []],
    "MD5checksum": [None, "", "0" * 31, "0" * 33, "g" * 32, "0" * 32 + "\n", 10**31, "\u0660" * 32],
}


def each(fields: dict[str, list[object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "value"), [(name, value) for name in fields for value in fields[name]])


@each(BAD_FIELDS)
def test_a_bad_field_is_named_with_its_value(name: str, value: object) -> None:
    with pytest.raises(IntegrityError) as refused:
        parse(changed(**{name: value}))
    assert str(refused.value).startswith(f"{WHERE}: {name} is {str(value)[:80]!r}: ")


@each(BAD_FILE_FIELDS)
def test_a_bad_field_of_a_data_file_is_named_with_its_number_and_value(name: str, value: object) -> None:
    with pytest.raises(IntegrityError) as refused:
        parse(with_file(**{name: value}))
    assert str(refused.value).startswith(f"{WHERE}: files[1]: {name} is {str(value)[:80]!r}: ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"<?xml version='1.0'?><Error/>",
        b'{"sourceBucket": ',
        b"\xff\xfe{}",
        b"\x1f\x8b\x08",
        b"[]",
        b"null",
        b'"text"',
        b"12",
        pytest.param(b"[" * 100_000, id="deep lists"),
        pytest.param(b'{"files": ' * 100_000, id="deep objects"),
        pytest.param(b"9" * 10_000, id="a long number"),
    ],
)
def test_what_is_no_json_object_is_asked_about(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"is this a manifest\.json\?") as refused:
        Manifest.parse(data, where=WHERE)
    assert refused.value.where == WHERE


@pytest.mark.parametrize("name", list(BAD_FIELDS))
@pytest.mark.parametrize("value", ["x" * 50_000, ["x"] * 50_000], ids=["text", "list"])
def test_a_message_stays_short_however_long_a_value_is(name: str, value: object) -> None:
    result = outcome(json.dumps(changed(**{name: value})).encode())
    if name == "fileSchema" and isinstance(value, str):
        assert isinstance(result, Manifest)
    else:
        assert isinstance(result, IntegrityError)
        assert len(str(result)) < 1000


# ---- Mutations

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["CSV", MD5_A, "1772413200000", "NaN", "\ud800", "a" * 300, 10**400, -1, float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths to every value below a JSON value."""
    items: list[tuple[str | int, object]] = []
    if isinstance(node, dict):
        items = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    return [found for name, value in items for found in [(*path, name), *places(value, (*path, name))]]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A manifest in which up to three values were replaced, removed, or moved to another name."""
    document = changed()
    for _ in range(draw(st.integers(0, 3))):
        found = places(document)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        node: Any = document
        for name in path:
            node = node[name]
        kind = draw(st.sampled_from(["replace", "remove", "rename"]))
        if kind == "replace":
            node[last] = draw(json_values)
            continue
        value = node.pop(last)
        if kind == "rename" and isinstance(node, dict):
            node[draw(st.text(max_size=5))] = value
    return json.dumps(document).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A manifest in whose bytes a few were changed, put in or left out."""
    data = bytearray(json.dumps(DOCUMENT, indent=draw(st.sampled_from([None, 1]))).encode())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))])


def assert_manifest_or_integrity_error(data: bytes) -> None:
    manifest = outcome(data)
    if isinstance(manifest, IntegrityError):
        assert str(manifest).startswith(WHERE)
        return
    assert manifest.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert is_bucket_name(manifest.source_bucket)
    assert is_bucket_name(manifest.destination_bucket)
    assert manifest.creation_timestamp.tzinfo is UTC
    assert isinstance(manifest.file_format, FileFormat)
    assert isinstance(manifest.file_schema, str)
    for file in manifest.files:
        assert file.key
        assert type(file.size) is int
        assert file.size >= 0
        assert len(file.md5_checksum) == 32
        assert set(file.md5_checksum) <= set(string.hexdigits.lower())


@given(mutated())
@settings(max_examples=500)
def test_a_manifest_with_other_values_parses_or_is_refused_nothing_else(data: bytes) -> None:
    assert_manifest_or_integrity_error(data)


@given(damaged() | st.binary(max_size=50))
@settings(max_examples=500)
@example(b"{}")
def test_damaged_bytes_parse_or_are_refused_nothing_else(data: bytes) -> None:
    assert_manifest_or_integrity_error(data)


# ---- The checksum


@pytest.mark.parametrize("form", ["{}\n", "{}", "{}\r\n", " {}  \n\n"])
@pytest.mark.parametrize("upper", [True, False])
def test_a_checksum_is_its_hex_digits_whatever_surrounds_them(form: str, *, upper: bool) -> None:
    manifest = parse(DOCUMENT)
    checksum = form.format(manifest.md5.upper() if upper else manifest.md5).encode()
    check_checksum(json.dumps(DOCUMENT).encode(), checksum, where=WHERE, checksum_where="manifest.checksum")
    with pytest.raises(IntegrityError):
        check_checksum(json.dumps(DOCUMENT).encode(), b"0" + checksum, where=WHERE, checksum_where="manifest.checksum")


@given(st.binary(max_size=100))
def test_any_other_checksum_is_refused_with_both_values_and_what_to_do(checksum: bytes) -> None:
    manifest = parse(DOCUMENT)
    with pytest.raises(IntegrityError, match="fetch the delivery again, or wait") as refused:
        check_checksum(json.dumps(DOCUMENT).encode(), checksum, where=WHERE, checksum_where="p/manifest.checksum")
    assert str(refused.value).startswith(f"{WHERE}: its MD5 is {manifest.md5}, p/manifest.checksum says ")
    assert len(str(refused.value)) < 500


@given(st.integers(0, 31), st.sampled_from("0123456789abcdef"))
def test_one_other_digit_is_another_checksum(position: int, digit: str) -> None:
    manifest = parse(DOCUMENT)
    other = manifest.md5[:position] + digit + manifest.md5[position + 1 :]
    if other == manifest.md5:
        check_checksum(json.dumps(DOCUMENT).encode(), other.encode(), where=WHERE, checksum_where="c")
        return
    with pytest.raises(IntegrityError):
        check_checksum(json.dumps(DOCUMENT).encode(), other.encode(), where=WHERE, checksum_where="c")


# ---- URIs

bucket_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{1,60}", fullmatch=True).filter(lambda name: ".." not in name)


@given(bucket_names, st.text(max_size=50))
def test_an_s3_url_survives_its_text_whatever_its_key(bucket: str, key: str) -> None:
    url = S3Url(bucket, key)
    assert str(url) == f"s3://{bucket}/{key}"
    assert parse_location(str(url)) == url


@given(bucket_names, st.text(max_size=30), st.from_regex(r"[a-z.]{1,10}", fullmatch=True))
def test_a_sibling_differs_in_the_last_part_of_the_key_alone(bucket: str, key: str, name: str) -> None:
    sibling = S3Url(bucket, key).sibling(name)
    folder, slash, _ = key.rpartition("/")
    assert sibling == S3Url(bucket, folder + slash + name)


@pytest.mark.parametrize(
    "text", ["manifest.json", "/data/manifest.json", "./a:b/m.json", "s3:/bucket/key", "s3", "~/m"]
)
def test_what_has_no_scheme_is_a_local_path(text: str) -> None:
    assert parse_location(text) == Path(text)


def test_a_bucket_alone_is_its_root() -> None:
    assert parse_location("s3://bucket") == parse_location("s3://bucket/") == S3Url("bucket", "")


@given(st.text(max_size=30))
@example("s3://")
@example("s3://\n/a")
@example("://")
def test_any_text_is_a_location_or_a_value_error_that_says_why(text: str) -> None:
    location = location_or_error(text)
    if isinstance(location, ValueError):
        assert text == "" or repr(text) in str(location)
    elif isinstance(location, S3Url):
        assert is_bucket_name(location.bucket)
    else:
        assert location == Path(text)


def location_or_error(text: str) -> Location | ValueError:
    try:
        return parse_location(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("name", ["abc", "a1", "my.bucket", "Old_Bucket", "0-9", "a" * 255])
def test_bucket_names_old_and_new_are_taken(name: str) -> None:
    assert is_bucket_name(name)


@pytest.mark.parametrize(
    "name", ["", "a", ".a", "-a", "_a", "a/b", "a\\b", "a b", "a..b", "..", "abc\n", "é-b", "a" * 256]
)
def test_what_could_be_a_path_or_no_bucket_is_no_bucket_name(name: str) -> None:
    assert not is_bucket_name(name)
