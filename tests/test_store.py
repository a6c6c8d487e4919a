"""The state in a local folder: files whole or not at all, whatever dies when; a lock that death frees; documents.

What it has in common with S3 is in test_stores.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory_enqueue import documents
from inventory_enqueue.errors import IntegrityError
from inventory_enqueue.store import HeldError, whole_lines
from inventory_enqueue.stores.local import LocalStore
from tests.support.cli import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

names = st.lists(st.sampled_from(["a", "b", "00000.parquet", "baseline.json"]), min_size=1, max_size=3).map("/".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


class Died(BaseException):
    """Neither an Exception nor expected by anyone, as KeyboardInterrupt."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "state")


def files(folder: Path) -> dict[str, bytes]:
    """Every file that is there, temporary ones included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def killed(program: str, store: LocalStore) -> None:
    """Run a program that has a `store` and kills itself with SIGKILL."""
    lines = [
        "import os, signal, sys",
        "from pathlib import Path",
        "from inventory_enqueue.stores.local import LocalStore",
        "store = LocalStore(Path(sys.argv[1]))",
        program,
        "os.kill(os.getpid(), signal.SIGKILL)",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(store.root)]
    done = subprocess.run(command, env=clean_environment(store.root), check=False, capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr.decode()


# ---- Files


@given(contents=st.lists(st.binary(max_size=100), min_size=1, max_size=4))
def test_a_name_holds_the_bytes_that_were_put_last(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store") / "made" / "when needed")
    assert store.size("runs/1/run.json") is None
    for content in contents:
        store.put("runs/1/run.json", content)
        assert store.get("runs/1/run.json") == content
    assert store.size("runs/1/run.json") == len(contents[-1])
    assert files(store.root) == {"runs/1/run.json": contents[-1]}


@given(
    steps=st.lists(st.tuples(names, st.binary(max_size=20), st.sampled_from([None, OSError, Died])), max_size=12),
)
@settings(max_examples=50)
def test_any_mix_of_whole_and_broken_writes_leaves_exactly_the_whole_ones(
    steps: list[tuple[str, bytes, type[BaseException] | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    expected: dict[str, bytes] = {}
    for name, content, error in steps:
        taken = any(other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in expected)
        if taken or (store.root / name).is_dir():
            continue  # a name is a file or a folder, never both
        try:
            with store.write_file(name) as path:
                path.write_bytes(content)
                if error is not None:
                    raise error
            expected[name] = content
        except (OSError, Died):
            assert error is not None
    assert files(store.root) == expected


def test_readers_see_the_old_content_until_the_new_one_is_whole(store: LocalStore) -> None:
    store.put("baseline.json", b"old")
    with store.write_file("baseline.json") as path, path.open("wb") as file:
        file.write(b"new")
        file.flush()
        assert store.get("baseline.json") == b"old"
        assert store.names("") == ["baseline.json"]
    assert store.get("baseline.json") == b"new"


def test_bytes_are_on_the_disk_before_their_name_and_their_name_before_put_returns(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("folder/file", b"old")
    events: list[tuple[str, int | str]] = []
    fsync, rename = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_rename)
    store.put("folder/file", b"new")
    file, folder = ((store.root / name).stat().st_ino for name in ("folder/file", "folder"))
    assert events == [("fsync", file), ("rename", "file"), ("fsync", folder)]


def test_a_process_killed_in_the_middle_of_a_write_leaves_the_old_content_and_the_next_write_works(
    store: LocalStore,
) -> None:
    store.put("indexes/1/meta.json", b"old")
    killed("store.write_file('indexes/1/meta.json').__enter__().write_bytes(b'half of the n')", store)
    assert store.get("indexes/1/meta.json") == b"old"
    assert store.names("indexes/1") == ["meta.json"]
    store.put("indexes/1/meta.json", b"new")
    assert files(store.root) == {"indexes/1/meta.json": b"new"}


# ---- Logs


@given(lines=st.lists(json_values.map(lambda value: (json.dumps(value) + "\n").encode()), max_size=8))
@settings(max_examples=30)
def test_what_was_appended_is_read_back_line_by_line(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    log = store.create_log("acks/1.jsonl")
    for line in lines:
        log.append(line)
        assert store.get("acks/1.jsonl").endswith(line)  # at once, without close() or sync()
    log.close()
    assert [line + b"\n" for line in whole_lines(store.get("acks/1.jsonl"))] == lines


@given(st.lists(json_values.map(lambda value: json.dumps(value).encode()), max_size=8), st.integers(0, 400))
def test_of_a_log_that_was_cut_anywhere_all_whole_lines_are_left(lines: list[bytes], cut: int) -> None:
    data = b"".join(line + b"\n" for line in lines)[:cut]
    whole = data.count(b"\n")
    assert whole_lines(data) == lines[:whole]


def test_appended_lines_survive_kill_9(store: LocalStore) -> None:
    killed("log = store.create_log('acks/0')\nfor n in range(1000): log.append(b'%d\\n' % n)", store)
    assert whole_lines(store.get("acks/0")) == [b"%d" % n for n in range(1000)]


def test_append_writes_all_where_the_system_takes_only_a_part(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    log = store.create_log("log")
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    log.append(b"0123456789\n")
    log.close()
    assert store.get("log") == b"0123456789\n"


# ---- The lock


@pytest.fixture
def holder(store: LocalStore) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock, with a child of its own that outlives it."""
    program = (
        "import subprocess, sys\n"
        "from pathlib import Path\n"
        "from inventory_enqueue.stores.local import LocalStore\n"
        "lock = LocalStore(Path(sys.argv[1])).lock('lock', lease=1)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "child = subprocess.Popen(sleep, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)],
        env=clean_environment(store.root),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        child = process.stdout.readline()
        yield process
        process.kill()
        os.kill(int(child), 9)


def test_kill_9_of_its_holder_frees_the_lock_even_while_a_child_of_it_lives(
    holder: subprocess.Popen[bytes], store: LocalStore
) -> None:
    with pytest.raises(HeldError, match=f"process {holder.pid} on "):
        store.lock("lock", lease=1)
    holder.kill()
    holder.wait()
    store.lock("lock", lease=1).release()


# ---- Documents


@given(st.dictionaries(st.text(), json_values).filter(lambda document: "format_version" not in document))
def test_a_document_survives_its_bytes_and_carries_its_version(document: dict[str, Any]) -> None:
    for encode in (documents.encode, documents.encode_line):
        data = encode(document)
        assert documents.parse(data, dict, where="state.json") == {"format_version": 1, **document}
        assert data.endswith(b"\n")
    assert documents.encode_line(document).count(b"\n") == 1


@pytest.mark.parametrize("version", [2, 99, 0, "1", 1.5, None, [1]])
def test_another_format_version_is_refused_with_where_and_what_to_do(version: object) -> None:
    data = json.dumps({"format_version": version}).encode()
    with pytest.raises(IntegrityError, match="upgrade this one") as refused:
        documents.parse(data, dict, where="s/baseline.json")
    assert str(refused.value).startswith(f"s/baseline.json: its format_version is {version}, this version knows 1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"format_version"',
        b"{}",
        b'{"other": 1}',
        b"\xff\xfe",
        b'{"format_version": 1',
        pytest.param(b"[" * 100_000, id="deep lists"),
    ],
)
def test_bytes_that_are_no_document_are_named_as_damaged(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged: restore it from a backup") as refused:
        documents.parse(data, dict, where="s/baseline.json")
    assert refused.value.where == "s/baseline.json"


@given(document=st.dictionaries(st.text(max_size=5), json_values, max_size=3), cut=st.integers(0, 300))
def test_a_document_cut_short_is_refused(document: dict[str, Any], cut: int) -> None:
    data = documents.encode(document)
    whole = data.rstrip(b"\n")
    if cut < len(whole):
        with pytest.raises(IntegrityError):
            documents.parse(data[:cut], dict, where="x")
    else:
        assert documents.parse(data[: max(cut, len(whole))], dict, where="x") == {"format_version": 1, **document}
