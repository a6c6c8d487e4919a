"""Finding deliveries under a configuration's prefix, in S3 over the wire and in local folders."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from inventory_enqueue.aws import session
from inventory_enqueue.cli.inventories import inventories
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.delivery import finding
from inventory_enqueue.delivery.finding import (
    WrongPrefixError,
    check_age,
    duration_text,
    find_candidates,
    find_latest,
    label_text,
    list_deliveries,
    manifest_location,
    parse_label,
    wait_for,
)
from inventory_enqueue.delivery.landing import Landing
from inventory_enqueue.errors import IntegrityError, InventoryUnavailableError, PreflightError, StoppedError
from inventory_enqueue.uris import Location, S3Url, parse_location
from tests.support.proxy import Answer, FaultProxy, RequestRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_s3 import S3Client

    from inventory_enqueue.demo.roto import RotoServer
    from inventory_enqueue.run import Delivery

PLAIN = Path(__file__).parent.parent / "fixtures" / "plain-40"
# What S3 must encode in a listing is in it: a space, a plus, a percent sign, and a letter outside ASCII.
CONFIG = "a b+c%2F/é/source-bucket/daily"
MONDAY, TUESDAY, WEDNESDAY = "2026-03-02T01-00Z", "2026-03-03T01-00Z", "2026-03-04T01-00Z"
TUESDAY_EVENING = "2026-03-03T19-30Z"
LABELS = (MONDAY, TUESDAY, TUESDAY_EVENING, WEDNESDAY)


@dataclass(frozen=True)
class Place:
    """Where deliveries land: a bucket, or a folder that stands for one."""

    root: Location
    landing: Landing
    client: S3Client | None

    def at(self, key: str) -> Location:
        """The location of a key; of a folder's, without a slash at its end."""
        return S3Url(self.root.bucket, key) if isinstance(self.root, S3Url) else self.root / key

    @property
    def config(self) -> Location:
        return self.at(CONFIG)

    def put(self, key: str, data: bytes) -> None:
        location = self.at(key)
        if isinstance(location, S3Url):
            assert self.client is not None
            self.client.put_object(Bucket=location.bucket, Key=location.key, Body=data)
        else:
            location.parent.mkdir(parents=True, exist_ok=True)
            location.write_bytes(data)

    def deliver(self, *labels: str, config: str = CONFIG) -> None:
        """Write complete deliveries, with what S3 puts beside them."""
        for label in labels:
            self.put(f"{config}/{label}/manifest.json", manifest(label))
            self.complete(label, config=config)
            self.put(f"{config}/hive/dt={label[:10]}-01-00/symlink.txt", b"")
        self.put(f"{config}/data/0.parquet", b"")

    def complete(self, label: str, data: bytes | None = None, *, config: str = CONFIG) -> None:
        """Write manifest.checksum."""
        self.put(f"{config}/{label}/manifest.checksum", checksum(manifest(label) if data is None else data))

    def latest(self, day: date | None = None) -> str:
        """The label of the delivery that is found."""
        return label_of(find_latest(self.landing, self.config, day=day))


def manifest(label: str, **changed: object) -> bytes:
    began = parse_label(label)
    assert began is not None
    files = [{"key": f"{CONFIG}/data/0.parquet", "size": 1000, "MD5checksum": "0" * 32}]
    content = {
        "sourceBucket": "source-bucket",
        "destinationBucket": "arn:aws:s3:::inventory",
        "version": "2016-11-30",
        "creationTimestamp": str(int(began.timestamp() * 1000)),
        "fileFormat": "Parquet",
        "fileSchema": "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);}",
        "files": files,
    }
    return json.dumps(content | changed).encode()


def checksum(data: bytes) -> bytes:
    return f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}\n".encode()


def label_of(delivery: Delivery) -> str:
    location = delivery.location
    return location.key.split("/")[-2] if isinstance(location, S3Url) else location.parent.name


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {}, f"<Error><Code>{code}</Code><Message>told</Message></Error>".encode())


def slashed(location: Location) -> Location:
    return replace(location, key=f"{location.key}/") if isinstance(location, S3Url) else location


@pytest.fixture
def local(tmp_path: Path) -> Place:
    root = tmp_path / "inventories"
    root.mkdir()
    return Place(root, Landing(AwsSettings(), tmp_path / "scratch"), None)


@pytest.fixture
def remote(roto: RotoServer, s3_client: S3Client, bucket: str, tmp_path: Path) -> Iterator[Place]:
    settings = AwsSettings(region="us-east-1", s3_endpoint_url=roto.endpoint_url)
    with closing(Landing(settings, tmp_path / "scratch")) as landing:
        yield Place(S3Url(bucket, ""), landing, s3_client)


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


# ---- Labels and durations


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("2026-03-02T01-00Z", datetime(2026, 3, 2, 1, 0, tzinfo=UTC)),
        ("2016-11-06T21-32Z", datetime(2016, 11, 6, 21, 32, tzinfo=UTC)),
        ("2024-02-29T23-59Z", datetime(2024, 2, 29, 23, 59, tzinfo=UTC)),
    ],
)
def test_a_label_is_a_time_in_utc(name: str, moment: datetime) -> None:
    assert parse_label(name) == moment
    assert label_text(moment) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "data", "hive", "dt=2026-03-02-01-00", "manifest.json", "2026-03-02", "2026-03-02T01-00"),
        *("2026-3-2T1-0Z", "2026-13-02T01-00Z", "2026-02-29T01-00Z", "2026-03-02T24-00Z", "2026-03-02T01-60Z"),
        *("0000-03-02T01-00Z", "2026-03-02T01-00z", "2026-03-02t01-00Z", "2026-03-02T01:00Z", "2026-03-02T01-00Z\n"),
        *(" 2026-03-02T01-00Z", "2026-03-02T01-00Z.bak", "٢٠٢٦-03-02T01-00Z"),
    ],
)
def test_any_other_name_is_no_label(name: str) -> None:
    assert parse_label(name) is None


@given(st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 31)))  # noqa: DTZ001 - made aware below
def test_labels_round_trip_and_sort_as_their_times(moment: datetime) -> None:
    moment = moment.replace(second=0, microsecond=0, tzinfo=UTC)
    assert parse_label(label_text(moment)) == moment


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "0 s"),
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(minutes=1), "1 min"),
        (timedelta(hours=1, seconds=2), "1 h 2 s"),
        (timedelta(days=400, hours=3, minutes=5, seconds=1), "400 d 3 h"),
    ],
)
def test_a_duration_is_told_in_two_units(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


# ---- The newest complete one


def test_the_newest_complete_delivery_is_taken_with_or_without_a_slash(place: Place) -> None:
    place.deliver(TUESDAY, WEDNESDAY, MONDAY)
    for config in (place.config, slashed(place.config)):
        delivery = find_latest(place.landing, config)
        assert label_of(delivery) == WEDNESDAY
        assert delivery.location == place.at(f"{CONFIG}/{WEDNESDAY}/manifest.json")
        assert delivery.data == manifest(WEDNESDAY)
        assert delivery.manifest.creation_timestamp == parse_label(WEDNESDAY)


def test_candidates_are_newest_first_and_nothing_else_is_one(place: Place) -> None:
    place.deliver(*LABELS)
    for odd in ("9999-99-99T99-99Z", "2026-03-05T01-00Z.bak", "zz"):
        place.put(f"{CONFIG}/{odd}/manifest.json", manifest(MONDAY))
    place.put(f"{CONFIG}/2026-03-06T01-00Z", b"a file, no folder")
    candidates = find_candidates(place.landing, place.config)
    assert [label_text(candidate.label) for candidate in candidates] == sorted(LABELS, reverse=True)
    assert candidates[0].manifest == place.at(f"{CONFIG}/{WEDNESDAY}/manifest.json")


def test_a_real_fixture_is_found() -> None:
    delivery = find_latest(Landing(AwsSettings(), Path("unused")), PLAIN / "plain-source" / "daily")
    assert label_of(delivery) == TUESDAY
    assert len(delivery.manifest.files) > 1


def test_a_relative_local_folder_is_found(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    local.deliver(MONDAY)
    assert isinstance(local.config, Path)
    monkeypatch.chdir(local.config)
    for path in (Path(), Path("../daily")):
        assert label_of(find_latest(local.landing, path)) == MONDAY


INCOMPLETE: dict[str, tuple[bytes | None, bytes | None]] = {
    "no checksum yet": (manifest(WEDNESDAY), None),
    "no manifest": (None, checksum(manifest(WEDNESDAY))),
    "neither": (None, None),
    "another one's checksum": (manifest(WEDNESDAY), checksum(manifest(TUESDAY))),
    "empty checksum": (manifest(WEDNESDAY), b""),
    "half a manifest": (manifest(WEDNESDAY)[:100], checksum(manifest(WEDNESDAY))),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_an_incomplete_newest_one_is_skipped_and_named(
    case: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inventory_enqueue")
    place.deliver(MONDAY, TUESDAY)
    for name, data in zip(("json", "checksum"), INCOMPLETE[case], strict=True):
        if data is not None:
            place.put(f"{CONFIG}/{WEDNESDAY}/manifest.{name}", data)
    place.put(f"{CONFIG}/{WEDNESDAY}/another.file", b"")
    assert place.latest() == TUESDAY
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"skipping an incomplete delivery, {WEDNESDAY}: ")


def test_a_checksum_in_capitals_without_a_newline_is_right(place: Place) -> None:
    place.deliver(MONDAY)
    place.put(f"{CONFIG}/{MONDAY}/manifest.checksum", checksum(manifest(MONDAY)).strip().upper())
    assert place.latest() == MONDAY


@pytest.mark.parametrize("data", [b"no JSON", manifest(WEDNESDAY, fileFormat="Iceberg")])
def test_a_complete_one_that_cannot_be_used_is_told_not_skipped(data: bytes, place: Place) -> None:
    """An older one in its place would be taken day by day, and new keys never."""
    place.deliver(TUESDAY)
    place.put(f"{CONFIG}/{WEDNESDAY}/manifest.json", data)
    place.complete(WEDNESDAY, data)
    with pytest.raises(IntegrityError, match=WEDNESDAY):
        place.latest()


def test_of_two_on_a_day_the_later_complete_one_is_taken(place: Place) -> None:
    place.deliver(TUESDAY, MONDAY)
    place.put(f"{CONFIG}/{TUESDAY_EVENING}/manifest.json", manifest(TUESDAY_EVENING))
    assert place.latest() == TUESDAY
    place.complete(TUESDAY_EVENING)
    assert place.latest() == TUESDAY_EVENING


def test_weekly_deliveries_are_found(place: Place) -> None:
    place.deliver("2026-03-01T01-00Z", "2026-02-22T01-00Z", "2025-12-28T01-00Z")
    assert place.latest() == "2026-03-01T01-00Z"


def test_none_complete_is_told_with_the_newest_ones_reason(place: Place) -> None:
    for label in LABELS:
        place.put(f"{CONFIG}/{label}/manifest.json", manifest(label))
    with pytest.raises(InventoryUnavailableError) as error:
        place.latest()
    told = f"no complete delivery, and 4 incomplete; the newest is {WEDNESDAY}: there is no checksum"
    assert (told in str(error.value), error.value.exit_code) == (True, 6)


# ---- A day


def test_a_day_is_that_of_the_label_in_utc(place: Place) -> None:
    place.deliver(*LABELS)
    east = timezone(timedelta(hours=9))
    assert place.latest(date(2026, 3, 3)) == TUESDAY_EVENING
    assert place.latest(datetime(2026, 3, 3, 0, 0)) == TUESDAY_EVENING  # noqa: DTZ001 - as click parses a day
    assert place.latest(datetime(2026, 3, 3, 5, 0, tzinfo=east)) == MONDAY


def test_the_newest_complete_one_of_a_day_is_taken_and_never_another_days(place: Place) -> None:
    place.deliver(MONDAY, TUESDAY, WEDNESDAY)
    place.put(f"{CONFIG}/{TUESDAY_EVENING}/manifest.json", manifest(TUESDAY_EVENING))
    assert place.latest(date(2026, 3, 3)) == TUESDAY
    place.complete(TUESDAY, b"other bytes")
    with pytest.raises(InventoryUnavailableError, match=r"no complete .* of 2026-03-03 \(UTC\), and 2 incomplete"):
        place.latest(date(2026, 3, 3))
    with pytest.raises(
        InventoryUnavailableError,
        match=rf"no delivery of 2026-03-05 \(UTC\), and 4 of other days; the newest is {WEDNESDAY}",
    ):
        place.latest(date(2026, 3, 5))


# ---- Many


@pytest.fixture
def crowded(remote: Place) -> Place:
    """A configuration that delivers since 1,200 days; only the delivery of the 100th day is complete."""
    began = datetime(2023, 1, 1, 1, 0, tzinfo=UTC)
    labels = [label_text(began + timedelta(days=day)) for day in range(1200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: remote.put(f"{CONFIG}/{label}/manifest.json", manifest(label)), labels))
    remote.deliver(labels[99])
    return remote


def test_thousands_of_deliveries_are_listed_page_by_page(crowded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = find_candidates(crowded.landing, crowded.config)
    labels = [label_text(candidate.label) for candidate in candidates]
    assert len(labels) == len(set(labels)) == 1200
    assert labels == sorted(labels, reverse=True)
    assert crowded.latest(date(2023, 4, 10)) == labels[1100]
    crowded.complete(labels[0])
    assert crowded.latest() == labels[0]
    deliveries, older = list_deliveries(crowded.landing, crowded.config, limit=3, now=candidates[0].label)
    assert [label_text(delivery.label) for delivery in deliveries] == labels[:3]
    assert older == 1197
    with pytest.raises(WrongPrefixError, match="did you mean"):
        find_candidates(crowded.landing, crowded.at("a b+c%2F"))
    monkeypatch.setattr(finding, "_MAX_PAGES", 1)
    with pytest.raises(WrongPrefixError, match="more than 1,000 entries"):
        find_candidates(crowded.landing, crowded.config)


# ---- The wrong place


def test_an_empty_place_says_what_was_looked_for_and_what_to_do(place: Place) -> None:
    place.put(f"{CONFIG}/data/0.parquet", b"")
    with pytest.raises(InventoryUnavailableError) as error:
        place.latest()
    assert not isinstance(error.value, WrongPrefixError)
    for text in ("folders seen: 1", "2026-03-02T01-00Z", "check the prefix", "48 hours", "name a manifest"):
        assert text in str(error.value)
    assert str(error.value).startswith(str(place.config))


@pytest.mark.parametrize(
    "given",
    [
        "a b+c%2F/é/source-bucket",
        "a b+c%2F/é",
        f"{CONFIG}/data",
        f"{CONFIG}/{MONDAY}",
        f"{CONFIG}/hive/dt=2026-03-02-01-00",
    ],
)
def test_a_folder_near_the_configurations_asks_whether_that_was_meant(given: str, place: Place) -> None:
    place.deliver(MONDAY)
    for location in (place.at(given), slashed(place.at(given))):
        with pytest.raises(WrongPrefixError) as error:
            find_latest(place.landing, location)
        assert f"did you mean {slashed(place.config)}?" in str(error.value)
        assert error.value.exit_code == 6


def test_several_that_may_be_meant_are_named(place: Place) -> None:
    for number in range(5):
        place.deliver(MONDAY, config=f"p/config-{number}")
    place.put("p/other/file", b"")
    with pytest.raises(WrongPrefixError) as error:
        find_latest(place.landing, place.at("p"))
    assert "folders seen: 6" in str(error.value)
    assert str(error.value).count("p/config-") == 3
    assert "or 2 more like it?" in str(error.value)


def test_the_bucket_itself_asks_too(remote: Place) -> None:
    remote.deliver(MONDAY, config="source-bucket/daily")
    with pytest.raises(WrongPrefixError, match=r"did you mean s3://\S+/source-bucket/daily/\?"):
        find_latest(remote.landing, remote.root)


def test_a_doubled_slash_in_the_keys_is_kept(remote: Place) -> None:
    """Of a destination prefix that ended in a slash."""
    remote.deliver(MONDAY, config="x//source-bucket/daily")
    assert label_of(find_latest(remote.landing, remote.at("x//source-bucket/daily/"))) == MONDAY
    with pytest.raises(WrongPrefixError, match=r"/x//source-bucket/daily/\?"):
        find_latest(remote.landing, remote.at("x//source-bucket"))
    with pytest.raises(InventoryUnavailableError):
        find_latest(remote.landing, remote.at("x/source-bucket/daily"))


def test_deliveries_in_the_root_of_a_bucket_are_found(remote: Place) -> None:
    remote.put(f"{MONDAY}/manifest.json", manifest(MONDAY))
    remote.put(f"{MONDAY}/manifest.checksum", checksum(manifest(MONDAY)))
    assert find_latest(remote.landing, remote.root).location == remote.at(f"{MONDAY}/manifest.json")


def test_a_local_folder_that_is_not_there_or_no_folder_is_told(local: Place) -> None:
    local.deliver(MONDAY)
    with pytest.raises(InventoryUnavailableError, match="no such folder"):
        find_latest(local.landing, local.at("absent"))
    with pytest.raises(InventoryUnavailableError, match="this is a file"):
        find_latest(local.landing, local.at(f"{CONFIG}/{MONDAY}/manifest.json"))


def test_a_local_folder_that_may_not_be_read_is_told(local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(PreflightError, match=r"can't be listed \(Permission denied\)"):
        find_latest(local.landing, local.config)


def test_a_bucket_that_is_not_there_is_told(remote: Place) -> None:
    with pytest.raises(InventoryUnavailableError, match="no such bucket"):
        find_latest(remote.landing, S3Url("no-such-bucket", "p/"))


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (refusal(403, "AccessDenied"), PreflightError, "allow s3:ListBucket"),
        (refusal(403, "InvalidAccessKeyId"), PreflightError, "InvalidAccessKeyId"),
        (refusal(503, "SlowDown"), StoppedError, "run the same command again"),
    ],
)
def test_an_error_of_the_listing_says_what_to_do(
    answer: Answer, error: type[Exception], says: str, roto: RotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_S3_ATTEMPTS", 1)
    with FaultProxy(roto.endpoint_url) as proxy:
        proxy.rules.append(RequestRule(answer, lambda _: True))
        settings = AwsSettings(region="us-east-1", s3_endpoint_url=proxy.endpoint_url)
        with (
            closing(Landing(settings, Path("unused"))) as landing,
            pytest.raises(error, match=rf"s3://some-bucket/p/: .*{says}"),
        ):
            find_latest(landing, S3Url("some-bucket", "p"))


def test_s3_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_S3_ATTEMPTS", 1)
    settings = AwsSettings(region="us-east-1", s3_endpoint_url="http://127.0.0.1:1")
    with closing(Landing(settings, Path("unused"))) as landing, pytest.raises(StoppedError, match="can't be listed"):
        find_latest(landing, S3Url("some-bucket", "p"))


def test_a_look_around_that_is_denied_does_not_hide_what_is_missing(
    remote: Place, roto: RotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_S3_ATTEMPTS", 1)
    remote.put("p/config/data/0.parquet", b"")
    with FaultProxy(roto.endpoint_url) as proxy:
        others = RequestRule(refusal(403, "AccessDenied"), lambda request: "prefix=p%2Fconfig%2F&" not in request.path)
        proxy.rules.append(others)
        settings = AwsSettings(region="us-east-1", s3_endpoint_url=proxy.endpoint_url)
        with (
            closing(Landing(settings, Path("unused"))) as landing,
            pytest.raises(InventoryUnavailableError, match="folders seen: 1"),
        ):
            find_latest(landing, remote.at("p/config"))
    assert others.fired == 3, "two folders above, one below"


# ---- Age


def test_a_delivery_that_is_too_old_is_refused_with_its_age_and_the_limit(local: Place) -> None:
    local.deliver(MONDAY)
    delivery = find_latest(local.landing, local.config)
    began = delivery.manifest.creation_timestamp
    limit = timedelta(days=1, hours=12)
    check_age(delivery, None, began + timedelta(days=1000))
    check_age(delivery, limit, began + limit)
    check_age(delivery, limit, began - timedelta(hours=1))
    with pytest.raises(InventoryUnavailableError, match=r"2 d 3 h old, and 1 d 12 h is the limit") as error:
        check_age(delivery, limit, began + timedelta(days=2, hours=3))
    assert error.value.where == str(delivery.location)


# ---- Waiting


class Clock:
    """Time that passes only in sleep, where things may happen."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def test_what_is_there_is_not_waited_for(local: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inventory_enqueue")
    local.deliver(MONDAY)
    clock = Clock()
    found = wait_for(
        lambda: find_latest(local.landing, local.config), timedelta(hours=1), sleep=clock.sleep, clock=clock
    )
    assert (label_of(found), clock.slept, caplog.messages) == (MONDAY, [], [])


def test_a_delivery_that_becomes_complete_while_we_wait_is_taken(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inventory_enqueue")
    place.put(f"{CONFIG}/{MONDAY}/manifest.json", manifest(MONDAY))
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.slept) == 3:
            place.complete(MONDAY)

    found = wait_for(lambda: find_latest(place.landing, place.config), timedelta(hours=1), sleep=sleep, clock=clock)
    assert label_of(found) == MONDAY
    assert clock.slept == [30, 30, 30]
    (waiting,) = [message for message in caplog.messages if message.startswith("waiting")]
    assert waiting.startswith(f"waiting up to 1 h: {place.config}: it holds no complete delivery")


def test_a_newer_delivery_is_waited_for_where_the_newest_is_too_old(place: Place) -> None:
    place.deliver(MONDAY)
    clock = Clock()

    def find() -> Delivery:
        delivery = find_latest(place.landing, place.config)
        check_age(delivery, timedelta(hours=20), datetime(2026, 3, 3, 5, 0, tzinfo=UTC))
        return delivery

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        place.deliver(TUESDAY)

    assert label_of(wait_for(find, timedelta(hours=1), sleep=sleep, clock=clock)) == TUESDAY
    assert clock.slept == [30]


def test_the_wait_ends_on_time_with_a_last_attempt(place: Place) -> None:
    place.put(f"{CONFIG}/{MONDAY}/manifest.json", manifest(MONDAY))
    clock = Clock()
    attempts = []

    def find() -> Delivery:
        attempts.append(clock.now)
        return find_latest(place.landing, place.config)

    with pytest.raises(InventoryUnavailableError, match=r"no complete delivery.*\(waited 1 min 15 s for it\)") as error:
        wait_for(find, timedelta(seconds=75), sleep=clock.sleep, clock=clock)
    assert clock.slept == [30, 30, 15]
    assert attempts == [1000, 1030, 1060, 1075]
    assert error.value.where == str(place.config)


def test_without_a_wait_there_is_one_attempt(local: Place) -> None:
    clock = Clock()
    with pytest.raises(InventoryUnavailableError, match=r"no such folder; check the path$"):
        wait_for(lambda: find_latest(local.landing, local.config), timedelta(), sleep=clock.sleep, clock=clock)
    assert clock.slept == []


def test_other_errors_and_a_wrong_prefix_are_not_waited_out(local: Place) -> None:
    local.deliver(MONDAY)
    clock = Clock()
    with pytest.raises(WrongPrefixError):
        wait_for(
            lambda: find_latest(local.landing, local.at("a b+c%2F")), timedelta(days=1), sleep=clock.sleep, clock=clock
        )
    local.put(f"{CONFIG}/{TUESDAY}/manifest.json", b"{}")
    local.complete(TUESDAY, b"{}")
    with pytest.raises(IntegrityError):
        wait_for(lambda: find_latest(local.landing, local.config), timedelta(days=1), sleep=clock.sleep, clock=clock)
    assert clock.slept == []


# ---- What --manifest may name


@pytest.mark.parametrize(
    ("given", "manifest_uri"),
    [
        ("s3://bucket/p/c/2026-03-02T01-00Z/manifest.json", "s3://bucket/p/c/2026-03-02T01-00Z/manifest.json"),
        ("s3://bucket/p/c/2026-03-02T01-00Z/manifest.checksum", "s3://bucket/p/c/2026-03-02T01-00Z/manifest.json"),
        ("s3://bucket/p/c/2026-03-02T01-00Z/", "s3://bucket/p/c/2026-03-02T01-00Z/manifest.json"),
        ("s3://bucket/p/c/2026-03-02T01-00Z", "s3://bucket/p/c/2026-03-02T01-00Z/manifest.json"),
        ("s3://bucket/2026-03-02T01-00Z", "s3://bucket/2026-03-02T01-00Z/manifest.json"),
        ("s3://bucket/p//c/copy/", "s3://bucket/p//c/copy/manifest.json"),
        ("s3://bucket/p/copy.json", "s3://bucket/p/copy.json"),
        ("s3://bucket/p/orc_manifest.checksum", "s3://bucket/p/orc_manifest.json"),
        ("s3://bucket/x.checksum/manifest.checksum", "s3://bucket/x.checksum/manifest.json"),
        ("s3://bucket/manifest.checksum", "s3://bucket/manifest.json"),
        ("s3://bucket/p/no-label", "s3://bucket/p/no-label"),
        ("s3://bucket/", "s3://bucket/manifest.json"),
        ("s3://bucket", "s3://bucket/manifest.json"),
    ],
)
def test_a_manifest_is_named_by_itself_its_checksum_or_its_folder(given: str, manifest_uri: str) -> None:
    assert str(manifest_location(parse_location(given))) == manifest_uri


def test_a_local_manifest_is_named_by_itself_its_checksum_or_its_folder(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.deliver(MONDAY)
    folder = local.at(f"{CONFIG}/{MONDAY}")
    assert isinstance(folder, Path)
    for named in (folder, folder / "manifest.json", folder / "manifest.checksum"):
        location = manifest_location(named)
        assert location == folder / "manifest.json"
        assert local.landing.open(location).data == manifest(MONDAY)
    monkeypatch.chdir(folder)
    assert manifest_location(Path()) == Path("manifest.json")
    assert manifest_location(Path("manifest.checksum")) == Path("manifest.json")
    assert manifest_location(Path("absent/manifest.json")) == Path("absent/manifest.json")
    assert manifest_location(Path("x" * 300)) == Path("x" * 300)


# ---- Listing


def test_deliveries_are_listed_with_what_they_hold_or_why_they_cannot_be_used(place: Place) -> None:
    place.deliver(MONDAY, WEDNESDAY)
    place.put(f"{CONFIG}/{TUESDAY}/manifest.json", manifest(TUESDAY))
    place.put(f"{CONFIG}/{TUESDAY_EVENING}/manifest.json", b"{}")
    place.complete(TUESDAY_EVENING, b"{}")
    now = datetime(2026, 3, 4, 2, 0, tzinfo=UTC)
    deliveries, older = list_deliveries(place.landing, place.config, limit=10, now=now)
    assert [label_text(delivery.label) for delivery in deliveries] == [WEDNESDAY, TUESDAY_EVENING, TUESDAY, MONDAY]
    assert [delivery.complete for delivery in deliveries] == [True, False, False, True]
    assert older == 0
    assert deliveries[0].to_json() == {
        "date": "2026-03-04T01:00:00.000Z",
        "age_s": 3600,
        "format": "Parquet",
        "files": 1,
        "bytes": 1000,
        "complete": True,
        "reason": None,
        "manifest": str(place.at(f"{CONFIG}/{WEDNESDAY}/manifest.json")),
    }
    assert "sourceBucket" in (deliveries[1].reason or "")
    assert "no checksum" in (deliveries[2].reason or "")
    assert (deliveries[2].file_format, deliveries[2].files, deliveries[2].total_bytes) == (None, None, None)


def test_inventories_prints_a_table(local: Place) -> None:
    local.deliver(MONDAY, WEDNESDAY)
    local.put(f"{CONFIG}/{TUESDAY}/manifest.json", manifest(TUESDAY))
    result = CliRunner().invoke(inventories, [str(local.config), "--limit", "2"])
    assert result.exit_code == 0
    headings, wednesday, tuesday = result.stdout.splitlines()
    assert headings.split() == ["date", "age", "format", "files", "bytes", "complete"]
    assert wednesday.startswith(f"{WEDNESDAY}  ")
    assert wednesday.endswith("  Parquet      1  1,000  yes")
    assert "no: there is no checksum file" in tuesday
    assert headings.index("complete") == wednesday.index("yes") == tuesday.index("no:")
    assert result.stderr == "and 1 older: --limit 3 lists them, too\n"


def test_inventories_prints_json(remote: Place, roto: RotoServer) -> None:
    remote.deliver(MONDAY, WEDNESDAY)
    uri = str(remote.config)
    for option in ("--endpoint-url", "--s3-endpoint-url"):
        result = CliRunner().invoke(inventories, [uri, "--json", "--region", "us-east-1", option, roto.endpoint_url])
        assert (result.exit_code, result.stderr) == (0, "")
        deliveries = json.loads(result.stdout)
        assert [delivery["date"][:10] for delivery in deliveries] == ["2026-03-04", "2026-03-02"]
        assert deliveries[0]["manifest"] == f"{uri}/{WEDNESDAY}/manifest.json"


def test_inventories_takes_the_endpoint_from_the_programs_own_environment(remote: Place, roto: RotoServer) -> None:
    remote.deliver(MONDAY)
    environment = {"INVENTORY_ENQUEUE_ENDPOINT_URL": roto.endpoint_url, "INVENTORY_ENQUEUE_REGION": "us-east-1"}
    result = CliRunner().invoke(inventories, [str(remote.config)], env=environment)
    assert (result.exit_code, result.stderr) == (0, "")


def test_inventories_ends_with_the_errors_exit_code(local: Place) -> None:
    result = CliRunner().invoke(inventories, [str(local.at("absent"))])
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr.startswith(f"inventory-enqueue: {local.at('absent')}: there is no such folder")


@pytest.mark.parametrize("uri", ["https://bucket/p", "s3://a/p", ""])
def test_inventories_refuses_another_uri(uri: str) -> None:
    result = CliRunner().invoke(inventories, [uri])
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


def test_inventories_leaves_nothing_behind(tmp_path: Path) -> None:
    shutil.copytree(PLAIN, tmp_path / "plain")
    before = sorted(tmp_path.rglob("*"))
    assert CliRunner().invoke(inventories, [str(tmp_path / "plain" / "plain-source" / "daily")]).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before
