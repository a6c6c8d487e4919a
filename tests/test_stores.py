"""One contract for every home of a state: a local folder, and S3 as three servers speak it; then what S3 alone has."""

from __future__ import annotations

import copy
import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from inventory_enqueue import documents
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.errors import IntegrityError, LockLostError, PreflightError, StoppedError
from inventory_enqueue.state import opened_state
from inventory_enqueue.store import ConflictError, HeldError, Store
from inventory_enqueue.stores import objects, open_store
from inventory_enqueue.stores.holders import Holder
from inventory_enqueue.stores.local import LocalStore
from inventory_enqueue.stores.s3 import S3Store
from inventory_enqueue.uris import Location, S3Url, parse_location
from tests.support.lock_holder import Place, lock_holder
from tests.support.ministack import ministack
from tests.support.proxy import Answer, Delay, FaultProxy, LoseAnswer, RequestRule
from tests.support.weed import weed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from types_boto3_s3 import S3Client

    from inventory_enqueue.demo.roto import RotoServer
    from tests.support.proxy import Forward, Request

SERVERS: Final = ["roto", "ministack", "seaweedfs"]
ON_SERVERS: Final = pytest.mark.parametrize("home", SERVERS, indirect=True)
ON_ROTO: Final = pytest.mark.parametrize("home", ["roto"], indirect=True)
START_SECONDS: Final = 15
BUCKET: Final = "a-state"


# ---- The homes


@dataclass(frozen=True)
class Home:
    """A place of a test's own, on one of the servers or a disk."""

    kind: str
    location: Location
    endpoint_url: str | None
    scratch: Path

    def open(self) -> Store:
        """The store as another process would have it: with a client and a scratch of its own."""
        return LocalStore(self.location) if isinstance(self.location, Path) else self.s3(attempts=5)

    def s3(self, endpoint_url: str | None = None, *, attempts: int = 1, interval: float = 60) -> S3Store:
        """The store by a client that makes so many attempts, maybe through a proxy."""
        assert isinstance(self.location, S3Url)
        return S3Store(self.client(endpoint_url, attempts), self.location, self._scratch(), sync_interval=interval)

    def client(self, endpoint_url: str | None = None, attempts: int = 1) -> S3Client:
        config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
        return boto3.client("s3", endpoint_url=endpoint_url or self.endpoint_url, config=config)

    def held(self, lease: float) -> Place:
        """What a process needs to hold the lock."""
        return Place(str(self.location), self.endpoint_url, str(self._scratch()), lease)

    def _scratch(self) -> Path:
        folder = self.scratch / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder


@pytest.fixture(scope="session")
def roto_url(roto: RotoServer) -> str:
    return with_bucket(roto.endpoint_url)


@pytest.fixture(scope="session")
def ministack_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ministack(tmp_path_factory.mktemp("ministack")) as endpoint_url:
        yield with_bucket(endpoint_url)


@pytest.fixture(scope="session")
def seaweedfs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with weed(tmp_path_factory.mktemp("weed")) as endpoint_url:
        yield with_bucket(endpoint_url)


@pytest.fixture(params=["local", *SERVERS])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    kind: str = request.param
    if kind == "local":
        return Home(kind, tmp_path / "state", None, tmp_path / "scratch")
    endpoint_url: str = request.getfixturevalue(f"{kind}_url")
    return Home(kind, S3Url(BUCKET, f"{uuid.uuid4().hex}/a state"), endpoint_url, tmp_path / "scratch")


def with_bucket(endpoint_url: str) -> str:
    """Make the tests' bucket, which SeaweedFS can't in its first seconds."""
    deadline = time.monotonic() + START_SECONDS
    with closing(boto3.client("s3", endpoint_url=endpoint_url)) as client:
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
            except ClientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return endpoint_url


@pytest.fixture
def store(home: Home) -> Store:
    return home.open()


class Died(BaseException):
    """Neither an Exception nor expected by anyone, as KeyboardInterrupt."""


# ---- Bytes


@pytest.mark.parametrize("content", [b"", b"bytes", bytes(range(256)) * 100])
def test_a_name_holds_the_bytes_that_were_put_last(store: Store, home: Home, content: bytes) -> None:
    assert store.size("runs/1/run.json") is None
    for data in (b"before", content, memoryview(content)):
        store.put("runs/1/run.json", data)
    other = home.open()
    assert store.get("runs/1/run.json") == other.get("runs/1/run.json") == content
    with other.open("runs/1/run.json") as file:
        assert file.read() == content
    assert other.size("runs/1/run.json") == len(content)
    read = other.read("runs/1/run.json")
    assert read is not None
    assert read.data == content


def test_a_name_without_bytes(store: Store) -> None:
    store.put("folder/name", b"")
    for name in ("nothing", "folder", "folder/nothing"):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            store.get(name)
        with pytest.raises(FileNotFoundError):
            store.local(name)
        assert store.size(name) is None
        store.remove("folder/nothing")
    assert store.read("nothing") is None
    assert store.names("nothing") == store.names("folder/name") == store.folders("nothing") == []


def test_a_folder_is_a_store(store: Store, home: Home) -> None:
    inner = store.at("pipeline").at("runs/1")
    inner.put("run.json", b"1")
    assert store.get("pipeline/runs/1/run.json") == b"1"
    assert inner.where("run.json") == store.where("pipeline/runs/1/run.json")
    assert inner.where("run.json") == f"{home.location}/pipeline/runs/1/run.json"


@pytest.mark.parametrize("size", [0, 100, 20 * 1024 * 1024 + 1])
def test_a_file_is_there_after_its_block(store: Store, home: Home, size: int) -> None:
    content = os.urandom(size)
    with store.write_file("indexes/1/00000.arrow") as path:
        path.write_bytes(content)
        assert store.size("indexes/1/00000.arrow") is None
        assert store.names("indexes/1") == []
    other = home.open()
    assert other.size("indexes/1/00000.arrow") == size
    assert other.local("indexes/1/00000.arrow").read_bytes() == content
    assert not path.exists()


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, Died])
def test_an_error_while_a_file_is_written_leaves_the_old_content(store: Store, error: type[BaseException]) -> None:
    def write(name: str) -> None:
        with store.write_file(name) as path:
            path.write_bytes(b"half of the n")
            raise error

    store.put("baseline.json", b"old")
    for name in ("baseline.json", "another"):
        with pytest.raises(error):
            write(name)
    assert store.get("baseline.json") == b"old"
    assert store.names() == ["baseline.json"]


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(store: Store) -> None:
    store.put("part", b"old")
    with pytest.raises(FileNotFoundError), store.write_file("part"):
        pass
    assert store.get("part") == b"old"


def test_a_local_file_has_the_bytes_that_were_written_last(store: Store) -> None:
    def write_file() -> None:
        with store.write_file("a/part") as path:
            path.write_bytes(b"3")

    version = store.create("a/part", b"1")
    writes: list[Callable[[], object]] = [
        lambda: store.replace("a/part", b"2", version),
        write_file,
        lambda: store.at("a").put("part", b"4"),
    ]
    assert store.local("a/part").read_bytes() == b"1"
    for number, write in enumerate(writes, start=2):
        write()
        assert store.local("a/part").read_bytes() == str(number).encode()
    removals: list[Callable[[], None]] = [lambda: store.remove("a/part"), lambda: store.remove_folder("a")]
    for remove in removals:
        store.put("a/part", b"5")
        assert store.local("a/part").read_bytes() == b"5"
        remove()
        with pytest.raises(FileNotFoundError):
            store.local("a/part")


def test_names_are_those_directly_under_a_folder_in_order(store: Store) -> None:
    for name in ("runs/b/run.json", "runs/a/run.json", "runs/a/tasks/1", "runs/a.json", "lock", "baseline.json"):
        store.put(name, b"")
    assert store.names("runs") == ["a", "a.json", "b"]
    assert store.folders("runs") == ["a", "b"]
    assert store.names("runs/a") == ["run.json", "tasks"]
    assert store.names() == store.names("") == ["baseline.json", "lock", "runs"]
    assert store.folders() == ["runs"]
    assert store.at("runs").names("a") == ["run.json", "tasks"]


def test_more_names_than_a_page_has(store: Store, home: Home) -> None:
    names = [f"{number:04d}" for number in range(1_050)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.put(f"acks/{name}", b""), names))
    store.put("acks-of-others", b"")
    store.put("acks/folder/1", b"")
    assert store.names("acks") == [*names, "folder"]
    store.remove("acks/0000")
    assert store.names("acks") == [*names[1:], "folder"]
    store.remove_folder("acks")
    store.remove_folder("acks")
    assert store.names("acks") == ([] if home.kind != "seaweedfs" else ["folder"])  # it lists empty folders for a while
    assert store.get("acks-of-others") == b""
    assert store.size("acks/folder/1") is None


# ---- Conditional writes


def test_what_is_created_was_not_there_and_what_is_replaced_did_not_change(store: Store, home: Home) -> None:
    other = home.open()
    first = store.create("baseline.json", b"1")
    with pytest.raises(ConflictError):
        other.create("baseline.json", b"2")
    assert store.read("baseline.json") == (b"1", first)
    second = other.replace("baseline.json", b"2", first)
    with pytest.raises(ConflictError):
        store.replace("baseline.json", b"3", first)
    assert store.read("baseline.json") == other.read("baseline.json") == (b"2", second)
    store.remove("baseline.json")
    with pytest.raises(ConflictError):
        store.replace("baseline.json", b"3", second)
    assert store.read("baseline.json") is None


def test_of_those_who_write_at_the_same_time_one_wins(home: Home) -> None:
    stores = [home.open() for _ in range(8)]

    def attempt(store: Store, data: bytes, version: str | None) -> str | None:
        try:
            return store.create("name", data) if version is None else store.replace("name", data, version)
        except ConflictError:
            return None

    version = None
    with ThreadPoolExecutor(len(stores)) as threads:
        for turn in range(2 if home.kind == "seaweedfs" else 12):  # there, some of them wait for seconds
            contents = [b"%d of %d" % (turn, number) for number in range(len(stores))]
            results = list(threads.map(attempt, stores, contents, [version] * len(stores)))
            winners = [number for number, result in enumerate(results) if result is not None]
            assert len(winners) == 1
            version = results[winners[0]]
            assert stores[0].read("name") == (contents[winners[0]], version)


# ---- Logs


def test_a_log_has_what_was_appended_in_pieces_with_headers(home: Home) -> None:
    store = home.open()
    log = store.create_log("acks/0.rows", b"header\n")
    for number in range(3):
        log.append(b"%d\n" % number)
        log.append(b"more\n")
        log.sync()
        log.sync()
    log.append(b"last\n")
    log.close()
    pieces = list(home.open().read_log("acks/0.rows"))
    texts = [data.removeprefix(b"header\n") for _, data in pieces]
    assert all(data.startswith(b"header\n") for _, data in pieces)
    assert b"".join(texts) == b"0\nmore\n1\nmore\n2\nmore\nlast\n"
    assert len(texts) == (1 if home.kind == "local" else 4)
    assert all(where.startswith(store.where("acks/0.rows")) for where, _ in pieces)
    assert store.names("acks") == ["0.rows"]


def test_a_log_is_never_one_that_exists(store: Store) -> None:
    store.put("acks/0", b"{}\n")
    log = store.create_log("acks/1")
    log.append(b"1\n")
    log.close()
    for name in ("acks/0", "acks/1"):
        with pytest.raises(FileExistsError):
            store.create_log(name)
    assert store.get("acks/0") == b"{}\n"
    assert [data for _, data in store.read_log("acks/1")] == [b"1\n"]


def test_an_empty_log_reads_as_nothing(store: Store) -> None:
    store.create_log("acks/0").close()
    assert b"".join(data for _, data in store.read_log("acks/0")) == b""


def test_lines_that_are_not_synced_are_on_the_disk_but_not_in_s3(store: Store, home: Home) -> None:
    log = store.create_log("acks/0")
    log.append(b"1\n")
    assert [data for _, data in home.open().read_log("acks/0")] == ([b"1\n"] if home.kind == "local" else [])
    log.close()
    assert [data for _, data in home.open().read_log("acks/0")] == [b"1\n"]


@ON_ROTO
def test_append_writes_a_piece_of_s3_once_4_mib_wait_or_the_time_is_up(home: Home) -> None:
    store = home.s3()
    log = store.create_log("log")
    for number in range(5):
        log.append(b"%d" % number * 1024 * 1024)
    assert [len(data) for _, data in store.read_log("log")] == [4 * 1024 * 1024]
    log.close()
    assert [len(data) for _, data in store.read_log("log")] == [4 * 1024 * 1024, 1024 * 1024]
    hasty = home.s3(interval=0).create_log("hasty")
    hasty.append(b"1")
    hasty.append(b"2")
    assert [data for _, data in store.read_log("hasty")] == [b"1"]


@ON_ROTO
def test_a_piece_whose_answer_was_lost_is_written_once(home: Home) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url)
        log = store.create_log("log", b"header\n")
        log.append(b"1\n")
        proxy.rules += [RequestRule(LoseAnswer(), is_method("PUT"), 1), RequestRule(ERROR_503, is_method("GET"), 1)]
        with pytest.raises(StoppedError, match="run the same command again"):
            log.sync()
        log.append(b"2\n")
        log.close()
    assert [data for _, data in home.open().read_log("log")] == [b"header\n1\n", b"header\n2\n"]


@ON_ROTO
def test_a_log_that_another_process_writes_is_an_error(home: Home) -> None:
    logs = [home.s3().create_log("log") for _ in range(2)]
    for number, log in enumerate(logs):
        log.append(b"%d\n" % number)
    logs[0].close()
    with pytest.raises(StoppedError, match="another process writes this log"):
        logs[1].close()


# ---- The lock


@contextmanager
def holding(store: Store, name: str = "lock.json", lease: float = 300) -> Iterator[Any]:
    lock = store.lock(name, lease=lease)
    try:
        yield lock
    finally:
        lock.release()


def test_the_lock_has_one_holder_and_is_free_once_it_is_released(home: Home) -> None:
    mine, others = home.open(), home.open()
    with holding(mine) as lock:
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
            others.lock("lock.json", lease=300)
        with pytest.raises(HeldError):
            mine.lock("lock.json", lease=300)
        with holding(others, "another.json") as elsewhere, holding(mine, "third.json"):
            assert elsewhere.token != lock.token
        mine.put("name", b"1")
        lock.check()
    mine.put("name", b"2")
    with holding(others) as next_one:
        assert next_one.token != lock.token
        with pytest.raises(HeldError):
            mine.lock("lock.json", lease=300)


def test_of_those_who_lock_at_the_same_time_one_wins(home: Home) -> None:
    stores = [home.open() for _ in range(4)]

    def attempt(store: Store) -> object:
        try:
            return store.lock("lock.json", lease=300)
        except HeldError:
            return None

    for _ in range(2):  # a new lock, and a released one
        with ThreadPoolExecutor(len(stores)) as threads:
            won = [lock for lock in threads.map(attempt, stores) if lock is not None]
        assert len(won) == 1
        won[0].release()  # type: ignore[attr-defined]


def test_kill_9_of_the_holder_frees_the_lock_at_once(home: Home) -> None:
    store = home.open()
    with lock_holder(home.held(lease=3600)) as holder:
        with pytest.raises(HeldError, match=f"process {holder.pid} on "):
            store.lock("lock.json", lease=3600)
        holder.kill()
        store.lock("lock.json", lease=3600).release()


@ON_SERVERS
def test_a_holder_that_was_stopped_for_longer_than_its_lease_cannot_write(home: Home) -> None:
    store = home.open()
    baseline = store.create("baseline.json", b"old")
    with lock_holder(home.held(lease=1)) as holder:
        assert holder.does("store.put('mine', b'1')") == "ok"
        assert holder.does("globals().update(log=store.at('acks').create_log('0')) or log.append(b'1')") == "ok"
        holder.pause()
        paused = time.monotonic()
        lock = until_free(store, lease=1)
        assert time.monotonic() - paused > 1
        holder.go_on()
        for expression in (
            "lock.check()",
            "store.put('mine', b'2')",
            "store.write_file('file').__enter__().write_bytes(b'') or store.put('file', b'2')",
            f"store.replace('baseline.json', b'new', {baseline!r})",
            "store.create('new', b'2')",
            "store.remove('mine')",
            "store.remove_folder('')",
            "store.at('acks').put('1', b'')",
            "log.sync()",
        ):
            assert holder.does(expression).startswith("LockLostError: "), expression
        wait_for(lambda: f"process {os.getpid()} on " in holder.does("lock.check()"))
        assert holder.does("lock.release()") == "ok"
        assert "LockLostError" in holder.does("store.put('mine', b'2')")
        lock.check()
        assert store.get("mine") == b"1"
        assert store.names() == ["baseline.json", "conditions.json", "lock.json", "mine"]
        store.replace("baseline.json", b"new", baseline)
        lock.release()


@ON_SERVERS
def test_a_heartbeat_keeps_the_lock_past_several_leases(home: Home) -> None:
    other = home.open()
    with holding(home.open(), lease=1) as lock:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            lock.check()
            with pytest.raises(HeldError, match=r"heard of [01] s ago, lease 1 s"):
                other.lock("lock.json", lease=1)
            time.sleep(0.2)


def until_free(store: Store, lease: float) -> Any:  # noqa: ANN401 - a lock
    """Try until the lock is had."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return store.lock("lock.json", lease=lease)
        except HeldError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def left_behind(store: Store, lease: float = 3600, **changes: Any) -> None:  # noqa: ANN401 - fields of a holder
    """Leave the lock as a holder did that can't be asked any more."""
    document = {
        "token": "0",
        "lease": lease,
        "beat": 7,
        "released": False,
        "holder": replace(Holder.this_process(), **changes).to_json(),
    }
    store.put("lock.json", documents.encode(document))


@ON_ROTO
def test_a_holder_is_dead_where_its_pid_is_another_process_now(home: Home) -> None:
    store = home.open()
    left_behind(store, started="1")
    with holding(store):
        assert json.loads(store.get("lock.json"))["holder"]["pid"] == os.getpid()


@ON_ROTO
@pytest.mark.parametrize(
    "changes",
    [{}, {"host": "elsewhere"}, {"boot_id": "another"}, {"pid_namespace": "pid:[1]"}, {"started": None}],
    ids=lambda changes: "".join(changes) or "alive",
)
def test_the_death_of_a_holder_elsewhere_cannot_be_seen(home: Home, changes: dict[str, Any]) -> None:
    store = home.open()
    # 2 ** 22 is the highest pid that Linux gives: https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html
    left_behind(store, **({"pid": 2**22 + 1} | changes if changes else {}))
    with pytest.raises(HeldError, match=r"heard of \d s ago, lease 3600 s"):
        store.lock("lock.json", lease=1)
    left_behind(store, lease=-1, **changes)
    store.lock("lock.json", lease=1).release()


@ON_ROTO
@pytest.mark.parametrize("data", [b"", b"{}", b'{"format_version": 1, "token": "a"}', b"\xff"])
def test_a_damaged_lock_is_an_error(home: Home, data: bytes) -> None:
    store = home.open()
    store.put("lock.json", data)
    with pytest.raises(IntegrityError, match="damaged"):
        store.lock("lock.json", lease=1)


@ON_ROTO
def test_heartbeats_that_fail_are_tried_again_until_the_lease_ends(home: Home) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url)
        lock = store.lock("lock.json", lease=2)
        few = [RequestRule(ERROR_503, is_put_of("lock.json"), 1), RequestRule(LoseAnswer(), is_put_of("lock.json"), 1)]
        proxy.rules += few
        until = time.monotonic() + 3
        while time.monotonic() < until:
            lock.check()
            time.sleep(0.1)
        assert [rule.fired for rule in few] == [1, 1]
        proxy.rules.append(RequestRule(ERROR_503, is_put_of("lock.json")))
        time.sleep(2.1)
        with pytest.raises(LockLostError, match="S3 took no sign of life for 2 s") as lost:
            lock.check()
        assert lost.value.exit_code == 5
        lock.release()
        with pytest.raises(LockLostError):
            store.put("name", b"")


@ON_ROTO
def test_a_lock_whose_object_was_removed_is_lost(home: Home) -> None:
    lock = home.open().lock("lock.json", lease=1)
    home.open().remove("lock.json")
    time.sleep(0.6)
    with pytest.raises(LockLostError, match="its object was removed"):
        lock.check()


@ON_ROTO
def test_no_attempt_of_a_write_is_sent_after_the_lock_was_lost(home: Home) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url, attempts=3)
        store.lock("lock.json", lease=1)
        slow = RequestRule(LateError(1.2), is_put_of("name"), 1)
        proxy.rules += [RequestRule(ERROR_503, is_put_of("lock.json")), slow]
        with pytest.raises(LockLostError):
            store.put("name", b"")
    assert slow.fired == 1
    assert home.open().size("name") is None


# ---- What S3 answers, and when it doesn't


def error_answer(status: int, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    return Answer(status, {"content-type": "application/xml"}, body.encode())


ERROR_503: Final = error_answer(503, "SlowDown")
DENIED: Final = error_answer(403, "AccessDenied")


@dataclass(frozen=True)
class LateError:
    """An error that takes its time."""

    seconds: float

    def apply(self, request: Request, _forward: Forward) -> Answer:
        return Delay(self.seconds).apply(request, lambda _: ERROR_503)


@dataclass(frozen=True)
class Ignore:
    """The server doesn't see this header."""

    header: str

    def apply(self, request: Request, forward: Forward) -> Answer:
        headers = copy.deepcopy(request.headers)
        del headers[self.header]
        return forward(replace(request, headers=headers))


def is_method(*methods: str) -> Callable[[Request], bool]:
    return lambda request: request.method in methods


def is_put_of(name: str) -> Callable[[Request], bool]:
    return lambda request: request.method == "PUT" and request.path.partition("?")[0].endswith(f"/{name}")


@ON_SERVERS
@pytest.mark.parametrize("attempts", [1, 3], ids=["one attempt", "the SDK tries again"])
def test_a_conditional_write_whose_answer_was_lost_counts(home: Home, attempts: int) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url, attempts=attempts)
        lost = [RequestRule(LoseAnswer(), is_method("PUT"), 1) for _ in range(2)]
        proxy.rules.append(lost[0])
        version = store.create("name", b"1")
        assert store.read("name") == (b"1", version)
        proxy.rules.append(lost[1])
        version = store.replace("name", b"2", version)
        assert home.open().read("name") == (b"2", version)
    assert [rule.fired for rule in lost] == [1, 1]


@ON_ROTO
def test_a_write_that_meets_another_under_way_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_PAUSE", 0.01)
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url)
        conflict = error_answer(409, "ConditionalRequestConflict")
        proxy.rules.append(RequestRule(conflict, is_method("PUT"), 2))
        version = store.create("name", b"1")
        assert store.read("name") == (b"1", version)
        proxy.rules[:] = [RequestRule(conflict, is_method("PUT"))]
        with pytest.raises(ConflictError):
            store.replace("name", b"2", version)


ACTIONS: Final[dict[str, Callable[[Store], object]]] = {
    "s3:GetObject on it, and s3:ListBucket on its bucket": lambda store: store.get("name"),
    "s3:PutObject": lambda store: store.put("name", b"1"),
    "s3:ListBucket": lambda store: store.names(),
    "s3:DeleteObject": lambda store: store.remove("name"),
}


@ON_ROTO
@pytest.mark.parametrize("action", ACTIONS)
def test_a_denied_request_names_the_permission(home: Home, action: str) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        proxy.rules.append(RequestRule(DENIED, lambda _: True))
        with pytest.raises(PreflightError, match=f"allow {action}") as denied:
            ACTIONS[action](home.s3(proxy.endpoint_url))
    assert denied.value.exit_code == 3
    assert str(denied.value).startswith(f"{home.location}/")


@ON_ROTO
@pytest.mark.parametrize("action", [*ACTIONS, "create", "upload", "remove_folder", "lock"])
@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_server_that_fails_stops_the_run(home: Home, action: str, fault: str) -> None:
    def upload(store: Store) -> None:
        with store.write_file("name") as path:
            path.write_bytes(bytes(9 * 1024 * 1024))

    actions: dict[str, Callable[[Store], object]] = ACTIONS | {
        "create": lambda store: store.create("name", b"1"),
        "upload": upload,
        "remove_folder": lambda store: store.remove_folder("runs"),
        "lock": lambda store: store.lock("lock.json", lease=1),
    }
    with FaultProxy(home.endpoint_url or "") as proxy:
        lose = LoseAnswer() if fault == "reset" else ERROR_503
        proxy.rules.append(RequestRule(lose, lambda _: True))
        with pytest.raises(StoppedError, match="run the same command again") as stopped:
            actions[action](home.s3(proxy.endpoint_url))
    assert stopped.value.exit_code == 8
    assert stopped.value.where is not None


@ON_ROTO
def test_a_key_that_is_not_removed_is_an_error_though_the_status_is_200(home: Home) -> None:
    body = b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url)
        store.put("runs/1", b"")
        proxy.rules.append(RequestRule(Answer(200, {"content-type": "application/xml"}, body), is_method("POST")))
        with pytest.raises(PreflightError, match="/k: access is denied; allow s3:DeleteObject on it"):
            store.remove_folder("runs")


@ON_SERVERS
def test_a_bucket_that_does_not_exist(home: Home, tmp_path: Path) -> None:
    location = S3Url(f"missing-{uuid.uuid4().hex}", "state")
    store = open_store(location, AwsSettings(s3_endpoint_url=home.endpoint_url), tmp_path)
    if home.kind == "seaweedfs":  # an administrator's first PutObject makes the bucket
        store.put("name", b"")
        assert store.names() == ["name"]
        return
    for attempt in (lambda: store.get("name"), lambda: store.put("name", b""), store.names):
        with pytest.raises(PreflightError, match=f"the bucket '{location.bucket}' doesn't exist"):
            attempt()


@pytest.mark.parametrize("home", ["seaweedfs"], indirect=True)
def test_a_wrong_secret_is_refused_and_not_told(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a wrong one")
    store = open_store(home.location, AwsSettings(s3_endpoint_url=home.endpoint_url), tmp_path)
    with pytest.raises(PreflightError, match="SignatureDoesNotMatch") as refused:
        store.put("name", b"1")
    assert "a wrong one" not in str(refused.value)


@pytest.mark.parametrize("home", ["seaweedfs"], indirect=True)
def test_a_state_is_read_with_credentials_even_where_inventories_are_not(home: Home, tmp_path: Path) -> None:
    settings = AwsSettings(s3_endpoint_url=home.endpoint_url, no_sign_request=True, expected_bucket_owner="1" * 12)
    store = open_store(home.location, settings, tmp_path)
    store.put("name", b"1")
    assert store.get("name") == b"1"


@ON_ROTO
@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
@pytest.mark.parametrize("how", ["ignored", "refused"])
def test_a_store_without_conditional_writes_is_refused(home: Home, header: str, how: str) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        fault = Ignore(header) if how == "ignored" else error_answer(501, "NotImplemented")
        proxy.rules.append(RequestRule(fault, lambda request: header in request.headers))
        with pytest.raises(PreflightError, match=f"doesn't honour {header}, .* name another --state") as refused:
            home.s3(proxy.endpoint_url).at("pipeline").lock("lock.json", lease=1)
    assert refused.value.exit_code == 3
    assert home.open().names("pipeline") == []


@ON_ROTO
def test_the_conditions_are_proved_once(home: Home) -> None:
    with holding(home.open()):
        pass
    assert home.open().names() == ["conditions.json", "lock.json"]
    with FaultProxy(home.endpoint_url or "") as proxy:
        with holding(home.s3(proxy.endpoint_url)):
            pass
        assert len(proxy.log) == 6  # whether they were; create, refused; two looks at what is there; replace; release


@ON_ROTO
def test_a_copy_is_downloaded_once(home: Home) -> None:
    with FaultProxy(home.endpoint_url or "") as proxy:
        store = home.s3(proxy.endpoint_url)
        store.put("indexes/1/00000.arrow", b"1")
        requests = len(proxy.log)
        path = store.local("indexes/1/00000.arrow")
        assert store.at("indexes").local("1/00000.arrow") == path
        assert path.name.endswith("00000.arrow")
        assert len(proxy.log) == requests + 1


def test_a_location_with_and_without_a_slash_is_the_same(tmp_path: Path) -> None:
    settings = AwsSettings(region="us-east-1")
    for text, where in {
        "s3://bucket": "s3://bucket/",
        "s3://bucket/": "s3://bucket/",
        "s3://bucket/a": "s3://bucket/a/",
        "s3://bucket/a/b/": "s3://bucket/a/b/",
    }.items():
        assert open_store(parse_location(text), settings, tmp_path).where() == where


# ---- Copies of a remote state's files


def test_only_copies_that_a_killed_process_left_are_removed_from_the_work_folder(tmp_path: Path) -> None:
    """--work-dir may be any folder, /tmp among them."""
    theirs = tmp_path / "state-of-somebody-else" / "file"
    theirs.parent.mkdir()
    theirs.write_bytes(b"precious")
    location, settings = S3Url("bucket", "states/"), AwsSettings(region="us-east-1")
    with opened_state(location, settings, tmp_path, checkpoint_interval=1):
        (ours,) = (folder for folder in tmp_path.iterdir() if folder != theirs.parent)
        with opened_state(location, settings, tmp_path, checkpoint_interval=1):
            assert ours.is_dir(), "its process lives"
    ours.mkdir()
    with opened_state(location, settings, tmp_path, checkpoint_interval=1):
        assert not ours.exists()
    assert theirs.read_bytes() == b"precious"
