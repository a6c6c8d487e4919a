"""How fast ready messages are sent to SQS, next to the SDKs; that none is lost; and in how much memory.

    python scripts/bench/sending.py
    python scripts/bench/sending.py --part faults --our-messages 200000

All speak TLS with sqs_server.c, a server so bare that the sender is what is measured: it keeps to one core, the senders
run where the system puts them, as they do for users. A contender is a whole process that has its messages ready, and
ours has rows in columns; what is measured is from its first batch to its last answer, connecting included: CPU seconds
of the user and the system, of all threads. Each peer is a program in sqs_peers/, run as it ships in an environment of
its own.

Ladder: all contenders, without latency and with 15 ms. Faults: ours against a server that throttles, fails entries,
resets connections and loses answers; what it accepted has to be all messages, and as duplicates only what can't be told
from lost. Memory: ours over more and more messages. Exits with 1 where a message was lost or sent once too often.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from fake_sqs import FakeSqs, fake_sqs
from measuring import in_process, load_note, programs_of
from ready_bodies import bodies

PARTS: Final = ("ladder", "faults", "memory")
LATENCIES: Final = (0, 15)
"""Milliseconds that the server takes to answer."""

FAULTS: Final = (
    *("--throttle", "0.05", "--fail", "0.05", "--reset", "0.01", "--lose", "0.01"),
    *("--latency-ms", "5-50"),
)
MEMORY_STEPS: Final = (1, 2, 4)
"""How many times the messages the memory is measured for."""

BASE: Final = "boto3, 16 threads"
OURS: Final = {
    "ours, every MD5 verified": (),
    "ours, --verify count": ("--verify", "count"),
    "ours, 10 records a message": ("--records-per-message", "10"),
}
"""Options of sqs_ours.py."""
MOST_CONNECTIONS: Final = ("--concurrency", "256")
"""Of ours, where latency is what is waited for."""

_HERE: Final = Path(__file__).parent
_OURS: Final = _HERE / "sqs_ours.py"
_BUILD: Final = _HERE.parents[1] / "build" / "bench"
_MB: Final = 1_000_000
_NONE: Final = "-"
_PAIR: Final = 2


@dataclass(frozen=True)
class Peer:
    """A contender beside ours.

    Args:
        script: Its file in sqs_peers/.
        requirements: What pip installs into its environment.
        packages: What npm installs; then Node runs it.
    """

    script: str
    requirements: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def command(self, folder: Path) -> list[str]:
        """What runs it, once what it needs is installed."""
        script = _HERE / "sqs_peers" / self.script
        if self.packages:
            _install_packages(folder / "node", self.packages)
            return ["env", f"NODE_PATH={folder / 'node' / 'node_modules'}", "node", "--no-warnings", str(script)]
        return [str(programs_of(folder, script.stem, self.requirements) / "python"), str(script)]


PEERS: Final = {
    BASE: Peer("boto3_threads.py", requirements=("boto3==1.44.8", "botocore==1.44.8", "urllib3==2.8.0")),
    "aiobotocore, uvloop, 32 in flight": Peer(
        "aiobotocore_tasks.py", requirements=("aiobotocore==3.10.0", "uvloop==0.23.0")
    ),
    "Node SDK v3, 64 in flight": Peer("node_sdk.cjs", packages=("@aws-sdk/client-sqs@3.1175.0",)),
}


@dataclass(frozen=True)
class Sent:
    """What a contender took, as it says itself; and its peak memory in bytes, as the kernel says."""

    keys: int
    messages: int
    wall: float
    cpu: float
    peak: int
    idle: int = 0
    """Ours: memory before the first row."""

    @property
    def per_cpu_second(self) -> float:
        """Keys per CPU-second."""
        return self.keys / self.cpu

    @property
    def per_second(self) -> float:
        """Keys per second on the wall."""
        return self.keys / self.wall


@dataclass(frozen=True)
class Record:
    """What the server accepted, compared with what was to be sent.

    Args:
        accepted: Messages, copies included.
        lost: Messages that the server never accepted.
        unanswered: Messages that it accepted, but the sender was never told.
        unknown: Accepted messages that nobody was to send.
        duplicates: Accepted copies beyond the first.
        answers_lost: Accepted copies whose answer never arrived.
        once_too_often: Accepted copies although an earlier one was acknowledged.
    """

    accepted: int
    lost: int
    unanswered: int
    unknown: int
    duplicates: int
    answers_lost: int
    once_too_often: int

    @property
    def good(self) -> bool:
        """Whether nothing is lost nor taken for sent unanswered, and nothing doubled but where the answer was lost."""
        wrong = self.lost + self.unanswered + self.unknown + self.once_too_often
        return wrong == 0 and self.duplicates <= self.answers_lost


@click.command()
@click.option("--messages", default=20_000, show_default=True, help="Messages that each peer sends.")
@click.option("--our-messages", default=500_000, show_default=True, help="Messages that ours sends.")
@click.option("--records-per-message", default=1, show_default=True, help="Records in each of our messages.")
@click.option("--rounds", default=1, show_default=True, help="Turns of all contenders; the medians count.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these.")
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Only these.")
@click.option("--seed", default=1, show_default=True, help="Of the faults.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=_BUILD,
    show_default=True,
    help="For the server's program and the peers' environments, which are kept.",
)
def main(  # noqa: PLR0913 - the command line's options
    *,
    messages: int,
    our_messages: int,
    records_per_message: int,
    rounds: int,
    parts: Sequence[str],
    peers: Sequence[str],
    seed: int,
    folder: Path,
) -> None:
    """Measure the sending of messages."""
    good = True
    bench = Bench(folder.absolute(), our_messages, records_per_message)
    parts = parts or PARTS
    if "ladder" in parts:
        ladder(bench, {name: PEERS[name] for name in peers or PEERS}, messages, rounds)
    if "faults" in parts:
        good = faults(bench, seed)
    if "memory" in parts:
        memory(bench)
    sys.exit(not good)


@dataclass(frozen=True)
class Bench:
    """Where things are, and how much ours sends."""

    folder: Path
    messages: int
    records_per_message: int

    @property
    def packing(self) -> list[str]:
        """Ours options."""
        return ["--records-per-message", str(self.records_per_message)]

    @contextmanager
    def server(self, *options: str) -> Iterator[FakeSqs]:
        """The server, on a core of its own."""
        with fake_sqs(self.folder, options, launcher=_on_core(0)) as server:
            yield server


# Ladder


def ladder(bench: Bench, peers: Mapping[str, Peer], messages: int, rounds: int) -> None:
    """Prints what the contenders send per CPU-second and per second."""
    print(f"\nSending: s3-event messages over TLS, {messages:,} a peer, {bench.messages:,} ours; ", end="")
    print(f"rounds: {rounds}; {load_note()}", flush=True)
    commands = {name: peer.command(bench.folder) for name, peer in peers.items()}
    all_sent: dict[tuple[str, int], list[Sent]] = {}
    server_costs = []
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "bodies"
        with path.open("w", encoding="ascii") as file:
            file.writelines(f"{body}\n" for body in bodies(messages))
        for _ in range(rounds):
            for latency in LATENCIES:
                for name in (*peers, *OURS):
                    with bench.server("--latency-ms", str(latency)) as server:
                        if name in peers:
                            sent = run(server, [*commands[name], server.queue_url, str(path), str(messages)])
                        else:
                            sent = ours(server, bench.messages, *OURS[name], *(MOST_CONNECTIONS if latency else ()))
                        stats = server.stats()
                    if not stats["accepted"] == sent.messages:
                        raise click.ClickException(f"{name}: {sent.messages:,} said to be sent, accepted: {stats}")
                    all_sent.setdefault((name, latency), []).append(sent)
                    server_costs.append(stats["cpu"] / stats["accepted"] * 1e6)
    print("| contender | keys per CPU-s | x boto3 | keys/s | x boto3 | keys/s at 15 ms | x boto3 |")
    print("|---|---|---|---|---|---|---|")
    for name in (*peers, *OURS):
        if (name, 0) in all_sent:
            _print_row(name, all_sent)
    if server_costs:
        print(f"\nThe server took {min(server_costs):.1f} to {max(server_costs):.1f} CPU-µs a message.")


def _print_row(name: str, all_sent: Mapping[tuple[str, int], Sequence[Sent]]) -> None:
    cells = [name]
    for measure, latency in (("per_cpu_second", 0), ("per_second", 0), ("per_second", LATENCIES[-1])):
        rate, base = (
            statistics.median(getattr(sent, measure) for sent in all_sent[contender, latency])
            if (contender, latency) in all_sent
            else 0
            for contender in (name, BASE)
        )
        cells += [f"{rate:,.0f}", f"{rate / base:.1f}" if base else _NONE]
    print(f"| {' | '.join(cells)} |")


# Faults


def faults(bench: Bench, seed: int) -> bool:
    """Prints what became of our messages where much goes wrong, and returns whether that's all right."""
    print(f"\nFaults: {' '.join(FAULTS)}; {load_note()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "record"
        with bench.server(*FAULTS, "--seed", str(seed), "--record", str(path)) as server:
            trace = bench.folder / "concurrency.csv"
            sent = ours(server, bench.messages, "--trace", str(trace), *bench.packing, *MOST_CONNECTIONS)
            stats = server.stats()
        record = in_process(compare, path, bench.messages, bench.records_per_message)
    _print_faults(bench, sent, stats, record)
    plot = trace.with_suffix(".svg")
    plot.write_text(svg(trace.read_text(encoding="ascii")), encoding="ascii")
    print(f"Requests in flight over time: {plot}")
    return record.good


def svg(trace: str) -> str:
    """A plot of the requests that may be in flight over time, from the lines of a trace."""
    points = [tuple(map(float, line.split(",")[:2])) for line in trace.splitlines()[1:]]
    width, height = points[-1][0] or 1, max(window for _, window in points)
    line = " ".join(f"{40 + 740 * x / width:.1f},{360 - 340 * y / height:.1f}" for x, y in points)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="400" font-family="sans-serif" font-size="12">'
        '<rect width="800" height="400" fill="white"/>'
        f'<polyline points="{line}" fill="none" stroke="navy"/><path d="M40 20V360H780" fill="none" stroke="black"/>'
        f'<text x="5" y="25">{height:.0f}</text><text x="700" y="380">{width:.0f} s</text>'
        '<text x="45" y="15">requests that may be in flight</text></svg>'
    )


def _print_faults(bench: Bench, sent: Sent, stats: Mapping[str, Any], record: Record) -> None:
    rows = {
        "to be sent": bench.messages,
        "said to be sent": sent.messages,
        "accepted, copies included": record.accepted,
        "batches": stats["batches"],
        "batches throttled": stats["throttled"],
        "entries failed": stats["failed"],
        "connections reset": stats["resets"],
        "answers lost": stats["lost_answers"],
        "their messages": record.answers_lost,
        "**lost**": record.lost,
        "**taken for sent, but never answered**": record.unanswered,
        "**unknown**": record.unknown,
        "**duplicates**": record.duplicates,
        "**sent though acknowledged**": record.once_too_often,
        "messages/s": round(sent.per_second),
    }
    print("| what | count |")
    print("|---|---|")
    for title, count in rows.items():
        print(f"| {title} | {count:,} |")
    print(f"\n{'All messages arrived, doubled only where an answer was lost.' if record.good else 'WRONG.'}")


def compare(path: Path, messages: int, records_per_message: int) -> Record:
    """Compares what the server recorded with what was to be sent; for a process of its own, since it holds that."""
    copies: Counter[bytes] = Counter()
    acknowledged: set[bytes] = set()
    answers_lost = once_too_often = 0
    with path.open("rb") as file:
        for line in file:
            body = line[1:-1]
            copies[body] += 1
            once_too_often += body in acknowledged
            if line[:1] == b"A":
                acknowledged.add(body)
            else:
                answers_lost += 1
    accepted = copies.total()
    lost = duplicates = unanswered = 0
    for text in bodies(messages, records_per_message):
        body = text.encode("ascii")
        count = copies.pop(body, 0)
        lost += count == 0
        duplicates += max(count - 1, 0)
        unanswered += count > 0 and body not in acknowledged
    return Record(accepted, lost, unanswered, copies.total(), duplicates, answers_lost, once_too_often)


# Memory


def memory(bench: Bench) -> None:
    """Prints the peak memory of ours over more and more messages."""
    print(f"\nMemory of ours; {load_note()}", flush=True)
    peaks: list[int] = []
    for step in MEMORY_STEPS:
        with bench.server() as server:
            sent = ours(server, bench.messages * step, *bench.packing)
        if not peaks:
            print("| keys | idle MB | peak MB | above idle |")
            print("|---|---|---|---|")
        peaks.append(sent.peak - sent.idle)
        row = [f"{sent.keys:,}", *(f"{size / _MB:.0f}" for size in (sent.idle, sent.peak, sent.peak - sent.idle))]
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"\nLast / first: {peaks[-1] / peaks[0]:.2f}")


# The contenders


def ours(server: FakeSqs, rows: int, *options: str) -> Sent:
    """Runs ours over so many rows."""
    return run(server, [sys.executable, str(_OURS), "--queue-url", server.queue_url, "--messages", str(rows), *options])


def run(server: FakeSqs, command: Sequence[str]) -> Sent:
    """Runs a contender to its end, and reads the line that it prints.

    This process stays small: a child's peak is never told lower than its parent's memory.

    Raises:
        click.ClickException: The process failed.
    """
    authority = str(server.authority)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CA_BUNDLE": authority,
        "NODE_EXTRA_CA_CERTS": authority,
    }
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, stdout=output, env=environment) as process,  # noqa: S603 - ours
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {process.returncode}")
    result = json.loads(said.splitlines()[-1])
    return Sent(
        keys=int(result.get("keys", result["messages"])),
        messages=int(result["messages"]),
        wall=float(result["wall"]),
        cpu=float(result["cpu"]),
        peak=int(result.get("peak", usage.ru_maxrss * 1024)),
        idle=int(result.get("idle", 0)),
    )


def _on_core(nth: int) -> list[str]:
    """A command that starts a command on a core of its own, where that can be done."""
    cores = sorted(os.sched_getaffinity(0))
    if shutil.which("taskset") is None or len(cores) < _PAIR:
        return []
    return ["taskset", "--cpu-list", str(cores[nth])]


def _install_packages(folder: Path, packages: Sequence[str]) -> None:
    """Installs npm's packages into a folder, where it doesn't have just these yet.

    Raises:
        click.ClickException: There is no npm.
    """
    npm, done = shutil.which("npm"), folder / "installed"
    if done.exists() and done.read_text(encoding="utf-8").split() == list(packages):
        return
    if npm is None:
        raise click.ClickException("npm isn't there; name the other peers with --peer")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
    subprocess.run([*install, *packages], check=True)  # noqa: S603 - what stands in PEERS
    done.write_text("\n".join(packages), encoding="utf-8")


if __name__ == "__main__":
    main()
