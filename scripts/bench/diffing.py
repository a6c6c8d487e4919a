"""How long it takes to name what changed between two deliveries, next to everything else that can name it.

    python scripts/bench/diffing.py
    python scripts/bench/diffing.py --growth

Every contender is a whole process, from the data files (which the page cache holds) to a file that names the new, the
changed and the deleted keys; Spark names the new ones alone. What it took is what the kernel says: wall seconds, user
and system seconds of all its threads, peak RSS. Two floors only read: what whoever keeps no index has to read, and what
everyone has to. Each peer is a script in peers/, run as it ships in an environment of its own.

Our sets have to equal the peers' and the generator's, key by key. An s3-event doesn't tell new from changed, so the
measured run's events are compared as created and removed, and one more run of the same diff, not measured, names the
three sets. With --growth, there are no peers: the same run over more and more objects.

Exits with 1 where a key is missing or wrong, and where a goal was missed at 20 M objects or more.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import click
from measuring import in_process, load_note, programs_of, scratch_folder

CHANGES: Final = ("new", "changed", "deleted")
EVENTS: Final = {"ObjectCreated:Put": "created", "ObjectRemoved:Delete": "removed"}

SIZE_OF_THE_GOALS: Final = 20_000_000
"""From so many objects on, a goal that is missed is a failure."""

GROWTH: Final = (5_000_000, 20_000_000, 100_000_000)
STAGES: Final = ("index", "diff", "enqueue")

_MB: Final = 1_000_000
_NONE: Final = "-"
_LABELS: Final = {"cpu": "CPU", "wall": "wall", "memory": "memory"}

_HERE: Final = Path(__file__).parent
_CHUNK: Final = 1 << 20
_LAST_LINES: Final = 20

Sets = Mapping[str, Sequence[bytes]]
"""The keys of each kind of change."""


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds, and bytes of memory."""

    wall: float
    cpu: float
    memory: int


@dataclass(frozen=True)
class Goal:
    """How many times as much as ours a peer has to take.

    Args:
        measure: A field of Usage.
        at_least: What is needed; None where the ratio is only shown.
        aim: What is aimed at.
    """

    measure: str
    at_least: float | None
    aim: float


@dataclass(frozen=True)
class Peer:
    """A contender beside ours, or a floor.

    Args:
        title: Names it in the table.
        script: Its file in peers/.
        goals: What the comparison with it has to show.
        launcher: The program of its environment that runs the script, and the program's options.
        requirements: What pip installs into its environment; with nothing it runs in ours.
        reads: The columns that a floor reads, and of which days; a join chooses for itself.
        names: The kinds of changes that it names; a floor names none.
    """

    title: str
    script: str
    goals: tuple[Goal, ...]
    launcher: tuple[str, ...] = ("python",)
    requirements: tuple[str, ...] = ()
    reads: tuple[str, tuple[int, ...]] | None = None
    names: tuple[str, ...] = ()


PEERS: Final = {
    "polars": Peer(
        "polars, streaming full join",
        "polars_join.py",
        (Goal("cpu", 2, 3), Goal("memory", 10, 10)),
        names=CHANGES,
    ),
    "duckdb": Peer(
        "duckdb, full join in 2 GB",
        "duckdb_join.py",
        (Goal("cpu", 1.8, 3), Goal("wall", 1.8, 3), Goal("memory", 2, 2)),
        requirements=("duckdb==2.0.0",),
        names=CHANGES,
    ),
    "spark": Peer(
        "Spark, left_anti: new alone",
        "spark_anti_join.py",
        (Goal("wall", 6, 10),),
        launcher=("spark-submit", "--driver-memory", "8g"),
        requirements=("pyspark==4.3.0",),
        names=("new",),
    ),
    "floor-both": Peer(
        "floor without an index: read key, e_tag of both days",
        "polars_read.py",
        (Goal("cpu", 1 / 2.0, 1 / 1.2),),
        reads=("key,e_tag", (1, 2)),
    ),
    "floor-today": Peer(
        "floor of all: read key, e_tag, size of today",
        "polars_read.py",
        (Goal("cpu", None, 1 / 2.0),),
        reads=("key,e_tag,size", (2,)),
    ),
}


@dataclass(frozen=True)
class Pair:
    """Two days of deliveries, in a folder that make_pair.py wrote."""

    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        """The manifests' paths, and how many keys are new, changed and deleted."""
        document: dict[str, Any] = json.loads((self.folder / "pair.json").read_bytes())
        return document

    def manifest(self, day: int) -> Path:
        """The path of a day's manifest.json."""
        return self.folder / str(self.document[f"day_{day}"])

    def day(self, day: int) -> Path:
        """A folder with a day's data files alone."""
        return self.folder / f"day-{day}"

    def link(self) -> None:
        """Makes the days' folders: a delivery keeps the files of all days together."""
        for day in (1, 2):
            self.day(day).mkdir()
            for file in json.loads(self.manifest(day).read_bytes())["files"]:
                original = self.folder / file["key"]
                (self.day(day) / original.name).hardlink_to(original)

    def warm(self) -> None:
        """Reads all data files, so that the page cache holds them."""
        for path in (path for day in (1, 2) for path in self.day(day).iterdir()):
            with path.open("rb") as file:
                while file.read(_CHUNK):
                    pass


@dataclass(frozen=True)
class Run:
    """A run of our command line: what it took, and its report."""

    usage: Usage
    report: dict[str, Any]

    def seconds(self, stage: str) -> str:
        """What a stage took, for a table."""
        seconds = self.report["seconds"]
        return f"{seconds[stage]:.2f}" if stage in seconds else _NONE


@click.command()
@click.option("--objects", default=SIZE_OF_THE_GOALS, show_default=True, help="Objects in the bucket on day one.")
@click.option("--rows-per-file", default=2_000_000, show_default=True, help="Rows of a data file.")
@click.option("--rounds", default=1, show_default=True, help="Turns of all contenders; the medians count.")
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Only these.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    default=tempfile.gettempdir(),
    show_default=True,
    help="For the files.",
)
@click.option("--keep", is_flag=True, help="Leave the files there, for the next time.")
@click.option("--growth", is_flag=True, help="Ours alone, over more and more objects.")
def main(  # noqa: PLR0913 - the command line's options
    objects: int, rows_per_file: int, rounds: int, peers: tuple[str, ...], scratch: Path, *, keep: bool, growth: bool
) -> None:
    """Measure the diff of two deliveries."""
    with scratch_folder(scratch, keep=keep) as folder:
        if growth:
            good = grow(folder, rows_per_file)
        else:
            good = contest(folder, objects, rows_per_file, rounds, {name: PEERS[name] for name in peers or PEERS})
    sys.exit(not good)


# The contest


def contest(folder: Path, objects: int, rows_per_file: int, rounds: int, peers: Mapping[str, Peer]) -> bool:
    """Prints the contenders' table, and returns whether the sets are right and, where they count, the goals met."""
    pair = _pair(folder, objects, rows_per_file)
    programs = {name: programs_of(folder, name, peer.requirements) for name, peer in peers.items()}
    firsts: list[Run] = []
    ours: list[Run] = []
    theirs: dict[str, list[Usage]] = {name: [] for name in peers}
    wrong: list[str] = []
    print(f"\nDiff of {objects:,} objects, rounds: {rounds}; {load_note()}", flush=True)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            place = Path(temporary)
            first, run = _ours(pair, place)
            firsts.append(first)
            ours.append(run)
            for name, peer in peers.items():
                theirs[name].append(_theirs(pair, place, name, peer, programs[name]))
            named = {name: place / name for name, peer in peers.items() if peer.names}
            wrong += _differences(pair, place, run, named)
    print(f"When all had run: {load_note()}\n")
    missed = _print_contenders(objects, firsts, ours, {peers[name]: usages for name, usages in theirs.items()})
    _print_stages({"previous index": firsts, "diff": ours})
    return _verdict(objects, missed, wrong)


def _print_contenders(
    objects: int, firsts: Sequence[Run], runs: Sequence[Run], theirs: Mapping[Peer, Sequence[Usage]]
) -> list[str]:
    """Prints the table, and returns the goals that were missed."""
    ours = [run.usage for run in runs]
    print("| contender | wall s | CPU s | peak MB | CPU: theirs / ours | wall | memory | at least | aim |")
    print("|---|---|---|---|---|---|---|---|---|")
    _print_row("ours, previous index", [run.usage for run in firsts], [_NONE] * 5)
    _print_row("ours", ours, ["1", "1", "1", f"peak under {_allowed(objects):,} MB", _NONE])
    missed = list(_peak_missed(objects, statistics.median(usage.memory for usage in ours)))
    for peer, usages in theirs.items():
        ratios = _ratios(usages, ours)
        needed = [(_LABELS[goal.measure], goal.at_least, ratios[goal.measure]) for goal in peer.goals if goal.at_least]
        at_least = ", ".join(f"{label} {at_least:.2g}" for label, at_least, _ in needed) or _NONE
        aim = ", ".join(f"{_LABELS[goal.measure]} {goal.aim:.2g}" for goal in peer.goals)
        _print_row(peer.title, usages, [*(f"{ratio:.2f}" for ratio in ratios.values()), at_least, aim])
        missed += [
            f"{peer.title}: {label} {ratio:.2f}, at least {at_least:.2g}"
            for label, at_least, ratio in needed
            if ratio < at_least
        ]
    return missed


def _print_row(title: str, usages: Sequence[Usage], more: Sequence[str]) -> None:
    wall, cpu, memory = (
        statistics.median(getattr(usage, measure) for usage in usages) for measure in ("wall", "cpu", "memory")
    )
    print(f"| {' | '.join([title, f'{wall:.2f}', f'{cpu:.2f}', f'{memory / _MB:,.0f}', *more])} |")


def _print_stages(runs: Mapping[str, Sequence[Run]]) -> None:
    print(f"\n| ours | {' | '.join(f'{stage} s' for stage in (*STAGES, 'total'))} |")
    print(f"|---|{'---|' * (len(STAGES) + 1)}")
    for title, rounds in runs.items():
        run = sorted(rounds, key=lambda run: run.usage.wall)[len(rounds) // 2]
        print(f"| {title} | {' | '.join(run.seconds(stage) for stage in (*STAGES, 'total'))} |")


def _ratios(theirs: Sequence[Usage], ours: Sequence[Usage]) -> dict[str, float]:
    """How many times as much as ours they took, in the rounds' median."""
    return {
        measure: statistics.median(
            getattr(one, measure) / getattr(other, measure) for one, other in zip(theirs, ours, strict=True)
        )
        for measure in _LABELS
    }


def _allowed(objects: int) -> int:
    """The MB that ours may take."""
    return 1_000 if objects <= SIZE_OF_THE_GOALS else 1_200


def _peak_missed(objects: int, memory: float) -> Iterator[str]:
    if memory > _allowed(objects) * _MB:
        yield f"ours, {objects:,} objects: peak {memory / _MB:,.0f} MB, at most {_allowed(objects):,}"


def _verdict(objects: int, missed: Sequence[str], wrong: Sequence[str]) -> bool:
    """Prints what was missed and what is wrong, and returns whether that's all right."""
    counts = objects >= SIZE_OF_THE_GOALS
    print()
    print("\n".join(f"WRONG: {line}" for line in wrong) or "The sets are equal, key by key.")
    print("\n".join(f"Missed: {line}" for line in missed) or "Nothing that is needed at least was missed.")
    if missed and not counts:
        print(f"(Ratios count from {SIZE_OF_THE_GOALS:,} objects on; below that, starting is much of it.)")
    return not wrong and not (missed and counts)


# Growth


def grow(folder: Path, rows_per_file: int) -> bool:
    """Prints what our run takes over more and more objects, and returns whether its sets are right and memory kept."""
    missed: list[str] = []
    wrong: list[str] = []
    print(f"\nGrowth: the diff alone, its previous index given; {load_note()}")
    print("| objects | index s | diff s | enqueue s | wall s | CPU s | CPU ns a row | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for objects in GROWTH:
        pair = _pair(folder, objects, rows_per_file)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _, run = _ours(pair, Path(name))
            wrong += _differences(pair, Path(name), run, {})
        stages = " | ".join(run.seconds(stage) for stage in STAGES)
        nanoseconds = run.usage.cpu / run.report["counts"]["listed"] * 1e9
        print(
            f"| {objects:,} | {stages} | {run.usage.wall:.1f} | {run.usage.cpu:.1f} | {nanoseconds:.0f} | "
            f"{run.usage.memory / _MB:,.0f} |",
            flush=True,
        )
        missed += _peak_missed(objects, run.usage.memory)
    return _verdict(max(GROWTH), missed, wrong)


# The contenders


def _pair(folder: Path, objects: int, rows_per_file: int) -> Pair:
    """The pair of deliveries, which is made where the folder doesn't have it yet."""
    root = folder / f"pair-{objects}-{rows_per_file}"
    if not root.exists():
        begun = root.with_suffix(".part")
        shutil.rmtree(begun, ignore_errors=True)
        options = ["--objects", str(objects), "--rows-per-file", str(rows_per_file)]
        make_pair = [sys.executable, str(_HERE.parent / "make_pair.py"), str(begun), *options]
        subprocess.run(make_pair, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own script
        Pair(begun).link()
        begun.rename(root)
    return Pair(root)


def _ours(pair: Pair, place: Path) -> tuple[Run, Run]:
    """Builds the previous day's index, and names what changed since; once more, not measured, with three names."""
    first = _run(pair, place, "state", "seed", ["--manifest", str(pair.manifest(1)), "--first-run", "seed"])
    shutil.copytree(place / "state", place / "state-again", copy_function=os.link)  # no file of it is ever changed
    diff = ["--manifest", str(pair.manifest(2)), "--changes", ",".join(CHANGES)]
    run = _run(pair, place, "state", "events", diff)
    _run(pair, place, "state-again", "names", [*diff, "--message-format", "json"])
    return first, run


def _run(pair: Pair, place: Path, state: str, name: str, arguments: Sequence[str]) -> Run:
    """Runs our command line, with messages to a file of that name."""
    folders = ["--state", str(place / state), "--work-dir", str(place / "work")]
    common = ["--pipeline", "bench", "--source-region", "us-east-1", "--json", *folders]
    output = ["--output", str(place / f"{name}.jsonl")]
    usage = _measured(pair, [sys.executable, "-m", "inventory_enqueue", *arguments, *common, *output], place / name)
    return Run(usage, json.loads((place / f"{name}.out").read_bytes()))


def _theirs(pair: Pair, place: Path, name: str, peer: Peer, programs: Path) -> Usage:
    """Runs a peer in its environment, as if that were activated."""
    if peer.reads is not None:
        columns, days = peer.reads
        arguments = [columns, *(str(pair.day(day)) for day in days)]
    else:
        temporary = place / f"{name}-temporary"
        temporary.mkdir()
        arguments = [str(pair.day(1)), str(pair.day(2)), str(place / name), str(temporary)]
    program, *options = peer.launcher
    command = [str(programs / program), *options, str(_HERE / "peers" / peer.script), *arguments]
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    loopback = {"SPARK_LOCAL_IP": "127.0.0.1"}  # spark-submit starts the JVM, before the script could say it
    return _measured(pair, command, place / name, {**path, **loopback})


def _measured(pair: Pair, command: Sequence[str], log: Path, more: Mapping[str, str] | None = None) -> Usage:
    """Runs a process to its end with the files in the page cache; what it says goes to log.out and log.err.

    This process stays small, and so never reads data: a child's peak is never told lower than its parent's memory.

    Raises:
        click.ClickException: The process failed.
    """
    pair.warm()
    os.sync()  # nobody pays for what an earlier one left to be written
    output, errors = log.with_suffix(".out"), log.with_suffix(".err")
    environment = {**os.environ, **(more or {})}
    started = time.monotonic()
    with (
        output.open("wb") as stdout,
        errors.open("wb") as stderr,
        subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment) as process,  # noqa: S603 - ours, and peers/
    ):
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise click.ClickException("\n".join([f"{log.name} ended with {process.returncode}:", *lines]))
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


# The sets


def _differences(pair: Pair, place: Path, run: Run, named: Mapping[str, Path]) -> list[str]:
    """What is wrong with the counts of our report, and with the sets that we and the peers named."""
    counted = {kind: run.report["counts"][kind] for kind in CHANGES}
    expected = {kind: pair.document[kind] for kind in CHANGES}
    wrong = [] if counted == expected else [f"our report counts {counted}, expected {expected}"]
    return wrong + in_process(differences, pair.folder, place / "events.jsonl", place / "names.jsonl", named)


def differences(pair: Path, events: Path, names: Path, peers: Mapping[str, Path]) -> list[str]:
    """Where the named sets aren't equal; for a process of its own, since it holds all named keys.

    Args:
        pair: The folder with the expected keys.
        events: Our s3-events.
        names: Our messages in the shape that tells new from changed.
        peers: What peers wrote: a file or a folder of Parquet files, with a row a key.
    """
    import polars as pl  # noqa: PLC0415 - the process that measures imports this module, and has to stay small

    def keys(frame: pl.DataFrame) -> list[bytes]:
        return frame["key"].cast(pl.Binary).to_list()

    def sets(path: Path) -> Sets:
        files = list(path.glob("*.parquet")) if path.is_dir() else path
        frame = pl.read_parquet(files, columns=["key", "change"])
        return {str(kind): keys(part) for (kind,), part in frame.partition_by("change", as_dict=True).items()}

    expected: Sets = {kind: keys(pl.read_parquet(pair / f"expected-{kind}.parquet")) for kind in CHANGES}
    as_events = {"created": [*expected["new"], *expected["changed"]], "removed": expected["deleted"]}
    ours = _named(names)
    return [
        *_unequal("our events", _events(events), "the generator", as_events),
        *_unequal("ours", ours, "the generator", expected),
        *(
            line
            for name, path in peers.items()
            for line in _unequal("ours", {kind: ours.get(kind, ()) for kind in PEERS[name].names}, name, sets(path))
        ),
    ]


def _events(path: Path) -> Sets:
    """The keys of s3-event messages, as bytes."""
    records = (json.loads(line)["Records"][0] for line in _lines(path))
    return _grouped(
        (EVENTS[record["eventName"]], unquote_to_bytes(record["s3"]["object"]["key"].replace("+", " ")))
        for record in records
    )


def _named(path: Path) -> Sets:
    """The keys of messages in our own shape."""
    messages = (json.loads(line) for line in _lines(path))
    return _grouped((message["change"], message["key"].encode()) for message in messages)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _grouped(pairs: Iterable[tuple[str, bytes]]) -> Sets:
    sets: dict[str, list[bytes]] = defaultdict(list)
    for kind, key in pairs:
        sets[kind].append(key)
    return sets


def _unequal(name: str, one: Sets, other_name: str, other: Sets) -> Iterator[str]:
    """Says which keys one has and the other hasn't, and which are named twice: how many, and one of them."""
    for kind in sorted({*one, *other}):
        keys, others = one.get(kind, ()), other.get(kind, ())
        known, other_known = set(keys), set(others)
        for who, lacking, surplus in (
            (name, other_name, known - other_known),
            (other_name, name, other_known - known),
        ):
            if surplus:
                yield f"{kind}: {who} has {len(surplus):,} keys that {lacking} hasn't, such as {min(surplus)!r}"
        for who, listed, distinct in ((name, keys, known), (other_name, others, other_known)):
            if len(listed) != len(distinct):
                yield f"{kind}: {who} names {len(listed) - len(distinct):,} keys more than once"


if __name__ == "__main__":
    main()
