"""How long producers wait when a node is killed, and when a container is handed over: `python -m bench.failover`.

Keeps: a gap is the longest time between two acknowledgements of one partition that changed its node, by a producer that
sends all the time; a run in which a record was lost, doubled or put out of order is an error, and counts for nothing.

killed      one of three nodes gets SIGKILL, and is started again: the gap of each partition that it had
handed over a container is moved from one node to the next, and back: the gap of its partition

Writes `results/failover.json`: each gap, with their quantiles and a histogram; where the nodes' own time went, station
by station, as their logs tell (`stations_p50_ms`); and how many processes of the machine wanted to run before and
behind it (`machine_load`): beyond the number of its cores, figures are of the machine. `--add` keeps what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.launching import PENSTOCK, Running
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

RESULT: Final = Path(__file__).resolve().parent / "results" / "failover.json"
BUCKET: Final = "failover"
TOPIC: Final = "t"
CONTAINERS: Final = 6
RATE: Final = 200
"""Records a second, 100 bytes each: the gap is to be measured, not the machine."""
BOUNDS_MS: Final = (50, 100, 200, 300, 500, 750, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000)
WAIT_S: Final = 60.0
REST_S: Final = 1.5
GAP_S: Final = 1.0
"""How long after a move its gap is looked for."""
EVENTS: Final = {"container served": "taken", "container handed over": "given"}
"""Lines of a node's log that tell where its time went."""


Stations = defaultdict[str, defaultdict[str, list[float]]]
"""Milliseconds of each takeover or hand-over, by what happened and the station."""


class Nodes:
    """Nodes over one etcd and one MinIO."""

    def __init__(self, directory: Path, etcd: EtcdServer, minio: MinioServer) -> None:
        self._directory = directory
        self.etcd = etcd
        self.cluster = f"etcd://{etcd.endpoint}/{BUCKET}"
        self._settings = (
            *("--cluster", self.cluster, "--tier2", f"s3://{BUCKET}/a", "--tier2-endpoint", minio.endpoint),
            *("--http", "off", "--set", f"cluster.containers={CONTAINERS}", "--set", "cluster.rebalance=off"),
            *("--set", "logging.format=json"),
        )
        self._read: dict[int, int] = {}  # bytes of each node's log that were looked at
        self.running: dict[int, Running] = {}
        self.addresses: dict[int, str] = {}

    def start(self, node: int) -> None:
        self._read.pop(node, None)
        listen = ("--listen", self.addresses.get(node, "127.0.0.1:0"), "--node-id", str(node))
        running = self.running[node] = Running(self._directory / f"node-{node}", *self._settings, *listen)
        self.addresses[node] = running.ready()["kafka"][0].rpartition("//")[2]

    def leaders(self) -> dict[int, int]:
        asked = ",".join(self.addresses.values())
        found = AdminClient({"bootstrap.servers": asked}).list_topics(TOPIC, timeout=WAIT_S).topics[TOPIC]
        return {number: partition.leader for number, partition in found.partitions.items()}

    def until_all_are_led(self) -> dict[int, int]:
        deadline = time.monotonic() + WAIT_S
        while min((found := self.leaders()).values(), default=-1) < 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"partitions without a leader: {found}")
            time.sleep(0.05)
        return found

    def stations(self) -> list[tuple[str, dict[str, float]]]:
        """What nodes have logged of takeovers and hand-overs since the last call: the event, and ms by station."""
        found: list[tuple[str, dict[str, float]]] = []
        for node, running in self.running.items():
            whole = running.err.read_bytes()
            lines = whole[self._read.get(node, 0) :].splitlines()
            self._read[node] = len(whole)
            for line in lines:
                with contextlib.suppress(ValueError):
                    told = json.loads(line)
                    if "ms" in told and told.get("message") in EVENTS:
                        found.append((told["message"], told["ms"]))
        return found

    def end(self) -> None:
        for one in self.running.values():
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


class Load:
    """An idempotent producer to all partitions, in turn; notes when each record was acknowledged."""

    def __init__(self, addresses: Sequence[str], rate: int = RATE) -> None:
        """`rate`: records a second, a request each."""
        self._rate = rate
        self.times: defaultdict[int, list[float]] = defaultdict(list)
        self.values: defaultdict[int, list[int]] = defaultdict(list)
        self.failed: list[str] = []
        self._over = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": ",".join(addresses),
                "enable.idempotence": True,
                "linger.ms": 0,
                "batch.num.messages": 1,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        for value in itertools.count():
            if self._over.is_set():
                break
            self._producer.produce(TOPIC, b"%099d" % value, partition=value % CONTAINERS, on_delivery=self._delivered)
            while (left_s := begun + value / self._rate - time.monotonic()) > 0:
                self._producer.poll(left_s)
            self._producer.poll(0)
        self._producer.flush(WAIT_S)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        partition, value = message.partition(), message.value()
        if error is not None or partition is None or value is None:
            self.failed.append(str(error))
            return
        self.times[partition].append(time.monotonic())
        self.values[partition].append(int(value))

    def gap_s(self, partition: int, since_s: float) -> float:
        """The longest time without an acknowledgement since then."""
        times = [at for at in list(self.times[partition]) if at > since_s - 0.5]
        return max((b - a for a, b in itertools.pairwise(times)), default=WAIT_S)

    def until_all_go_on(self, after_s: float) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self.times) < CONTAINERS or min(times[-1] for times in list(self.times.values())) < after_s:
            if time.monotonic() > deadline:
                raise SystemExit("a partition does not go on")
            time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def killed(nodes: Nodes, load: Load, runs: Iterable[int], gaps: list[float], stations: Stations) -> None:
    for number in runs:
        leaders = nodes.until_all_are_led()
        victim = random.Random(number).choice(sorted(set(leaders.values())))
        load.until_all_go_on(time.monotonic())
        at_s = time.monotonic()
        nodes.running[victim].process.send_signal(signal.SIGKILL)
        nodes.running[victim].process.wait()
        load.until_all_go_on(time.monotonic() + REST_S)
        gaps += [load.gap_s(partition, at_s) for partition, node in leaders.items() if node == victim]
        _note(stations, "killed", nodes)
        nodes.start(victim)
        spread(nodes)
        nodes.stations()  # of the moves


def _note(stations: Stations, name: str, nodes: Nodes) -> None:
    for event, ms in nodes.stations():
        for station, one in ms.items():
            stations[f"{name}: {EVENTS[event]}"][station].append(one)


def spread(nodes: Nodes) -> None:
    """Give each node its share again."""
    leaders = nodes.until_all_are_led()
    counts = {node: sum(leader == node for leader in leaders.values()) for node in nodes.running}
    while max(counts.values()) > min(counts.values()) + 1:
        least, most = (choose(counts, key=lambda node: counts[node]) for choose in (min, max))
        partition = next(partition for partition, leader in leaders.items() if leader == most)
        move(nodes, partition, least)
        leaders[partition] = least
        counts[most], counts[least] = counts[most] - 1, counts[least] + 1


def move(nodes: Nodes, partition: int, node: int) -> None:
    """Have the container of a partition, which has its number, served by a node."""
    command = [PENSTOCK, "cluster", "move", str(partition), str(node), "--cluster", nodes.cluster]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-500:]}")


def handed_over(nodes: Nodes, load: Load, runs: Iterable[int], gaps: list[float]) -> None:
    for number in runs:
        partition, leaders = number % CONTAINERS, nodes.until_all_are_led()
        others = sorted(set(nodes.running) - {leaders[partition]})
        at_s = time.monotonic()
        move(nodes, partition, others[number % len(others)])
        load.until_all_go_on(time.monotonic() + GAP_S)
        gaps.append(load.gap_s(partition, at_s))


def read(address: str, partition: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False})
    try:
        where = TopicPartition(TOPIC, partition, 0)
        _, end = consumer.get_watermark_offsets(where, timeout=WAIT_S)
        consumer.assign([where])
        found: list[int] = []
        while len(found) < end and (message := consumer.poll(WAIT_S)) is not None and message.error() is None:
            found.append(int(message.value() or b"-1"))
        return found
    finally:
        consumer.close()


def summary(gaps: Sequence[float]) -> dict[str, Any]:
    ms = sorted(round(gap * 1000) for gap in gaps)
    between = itertools.pairwise((0, *BOUNDS_MS))
    counts = {f"<= {high} ms": sum(low < one <= high for one in ms) for low, high in between}
    return {
        "count": len(ms),
        "p50_ms": statistics.median(ms),
        "p90_ms": ms[int(0.9 * (len(ms) - 1))],
        "max_ms": ms[-1],
        "histogram": {name: count for name, count in counts.items() if count},
        "gaps_ms": ms,
    }


@contextmanager
def running(directory: Path, count: int = 3) -> Iterator[Nodes]:
    os.environ |= {"PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER, "PENSTOCK_TIER2_SECRET_KEY": ROOT_PASSWORD}
    with ExitStack() as undo:
        for name in ("minio", "etcd"):
            (directory / name).mkdir()
        minio, etcd = MinioServer(directory / "minio"), EtcdServer(directory / "etcd")
        minio.start()
        undo.callback(minio.kill)
        etcd.start()
        undo.callback(etcd.stop)
        nodes = Nodes(directory, etcd, minio)
        undo.callback(nodes.end)
        for node in range(1, count + 1):
            nodes.start(node)
        yield nodes


def main() -> int:
    """Measure, check, and write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and end all that was started
    options = _options()
    found: dict[str, list[float]] = {"killed": [], "handed over": []}
    ends_s = time.monotonic() + options.seconds
    stations: Stations = defaultdict(lambda: defaultdict(list))
    machine = [round(os.getloadavg()[0], 1)]
    directory = Path(tempfile.mkdtemp(prefix="failover-", dir=os.environ.get("BENCH_DIR")))
    try:
        with running(directory) as nodes:
            admin = AdminClient({"bootstrap.servers": nodes.addresses[1]})
            admin.create_topics([NewTopic(TOPIC, CONTAINERS)])[TOPIC].result(WAIT_S)
            spread(nodes)
            load = Load(list(nodes.addresses.values()))
            try:
                time.sleep(REST_S)
                load.until_all_go_on(time.monotonic())
                nodes.stations()
                handed_over(nodes, load, until(options.runs, ends_s), found["handed over"])
                _note(stations, "handed over", nodes)
                print("handed over, ms:", [round(gap * 1000) for gap in found["handed over"]], flush=True)
                killed(nodes, load, until(options.kills, ends_s), found["killed"], stations)
                print("killed, ms:", [round(gap * 1000) for gap in found["killed"]], flush=True)
            finally:
                load.end()
            if load.failed:
                raise SystemExit(f"{len(load.failed)} records were not acknowledged: {load.failed[0]}")
            for partition in range(CONTAINERS):
                if read(nodes.addresses[1], partition) != load.values[partition]:
                    raise SystemExit(f"partition {partition} has not exactly what was acknowledged")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    machine.append(round(os.getloadavg()[0], 1))
    before = json.loads(options.out.read_text()) if options.add and options.out.exists() else {}
    told = write(options.out, before, found, stations, machine)
    for name, one in told.items():
        print(f"{name}: {one['count']} gaps, p50 {one['p50_ms']} ms, p90 {one['p90_ms']} ms, max {one['max_ms']} ms")
    return 0


def until(runs: int, ends_s: float) -> Iterator[int]:
    """The numbers of `runs` runs, without those that would begin after `ends_s`."""
    return itertools.takewhile(lambda _: time.monotonic() < ends_s, range(runs))


def write(
    out: Path, before: Mapping[str, Any], found: Mapping[str, list[float]], stations: Stations, machine: list[float]
) -> dict[str, dict[str, Any]]:
    """The gaps of before and now, and the stations of now, or of before where there are none now."""
    told: dict[str, dict[str, Any]] = {}
    for name, gaps in found.items():
        known = [ms / 1000 for ms in before.get(name, {}).get("gaps_ms", [])]
        if gaps or known:
            told[name] = summary([*known, *gaps])
    medians = {
        name: {station: round(statistics.median(ms), 1) for station, ms in of_it.items()}
        for name, of_it in stations.items()
    }
    head = {"records_s": RATE, "machine_load": [*before.get("machine_load", []), *machine]}
    stations_p50_ms = {**before.get("stations_p50_ms", {}), **medians}
    out.write_text(json.dumps({**head, **told, "stations_p50_ms": stations_p50_ms}, indent=1) + "\n")
    return told


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="hand-overs")
    parser.add_argument("--kills", type=int, default=None, help="kills; as many if not given")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--seconds", type=float, default=3_600, help="begin no run after so long")
    parser.add_argument("--add", action="store_true", help="keep the gaps that the file has")
    options = parser.parse_args()
    options.kills = options.runs if options.kills is None else options.kills
    return options


if __name__ == "__main__":
    sys.exit(main())
