"""A load whose turns are the same on any number of workers, and what a request of it costs by function.

A burst of requests goes to one partition in one write; the next burst goes to the next partition, once all of this one
is answered. The partitions lie in a container each. So a turn of a worker's loop finds the same requests, and a group
of its log has the same records, whether one process has all containers or eight have one each: what a request costs can
be compared. (A load as fast as it goes meets smaller groups where more processes share the cores.)

Keeps: the CPU time that the processes use at rest is measured first, and taken off.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient

from bench import loadgen
from bench.hostile.wire import Stranger
from bench.profile import record
from bench.servers import create_topics
from bench.worker_gateway import CONTAINERS, Gateway, settle
from gateway.records.records import Record, build_batch

BURSTS: Final = {1: 3_000, 64: 400}
"""Bursts that are measured, by the requests in each."""
WARM_BURSTS: Final = 200
RECORD_BYTES: Final = 100
REST_S: Final = 4.0
POLL_S: Final = 0.002
PROFILE_BURST: Final = 64
PROFILE_BURSTS: Final = 2_000
SAMPLES_PER_S: Final = 200
FUNCTIONS: Final = 16
"""The heaviest that are kept of a profile."""
TURNS: Final = "same turns: "


class Turns:
    """Connections to the leaders of a topic that has one partition in each container."""

    def __init__(self, gateway: Gateway, topic: str) -> None:
        create_topics(gateway.bootstrap, [topic], CONTAINERS, {"penstock.placement": "spread"})
        admin = AdminClient({"bootstrap.servers": gateway.bootstrap, "log_level": 0})
        found = admin.list_topics(topic, timeout=loadgen.GRACE_SECONDS)
        brokers = {number: (broker.host, broker.port) for number, broker in found.brokers.items()}
        leaders = {number: one.leader for number, one in found.topics[topic].partitions.items()}
        self._connections = {leader: Stranger(brokers[leader]) for leader in set(leaders.values())}
        batch = bytes(build_batch([Record(0, 0, None, b"x" * RECORD_BYTES)]))
        self._places = [
            (connection := self._connections[leader], connection.produce_frame(topic, batch, partition))
            for partition, leader in sorted(leaders.items())
        ]
        self._frames = {brokers[leader]: self._places[partition][1] for partition, leader in leaders.items()}
        for address in self._frames:  # until each worker knows the topic
            self.until_answered(address)

    def run(self, requests: int, bursts: int) -> float:
        """Send that many bursts of requests; returns the seconds that it took."""
        began = time.perf_counter()
        for number in range(bursts):
            connection, frame = self._places[number % len(self._places)]
            connection.send(*[frame] * requests)
            for _ in range(requests):
                _check(connection.skip())
        return time.perf_counter() - began

    def until_answered(self, address: tuple[str, int]) -> float:
        """Seconds until a request to a partition that is led there is answered without an error, by a new
        connection."""
        began = time.perf_counter()
        while True:
            try:
                connection = Stranger(address)
                connection.send(self._frames[address])
                _check(connection.skip())
            except (OSError, loadgen.LoadFailed):
                if time.perf_counter() - began > loadgen.GRACE_SECONDS:
                    raise
                time.sleep(POLL_S)
            else:
                connection.close()
                return time.perf_counter() - began

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def _check(answer: bytes) -> None:
    """Of one partition: behind correlation id and tags, the topic's name, a count and the index comes its error."""
    name = answer[6] - 1
    at = 7 + name + 1 + 4
    if answer[at : at + 2] != b"\0\0":
        raise loadgen.LoadFailed(f"a request was refused: {answer[:64].hex()}")


def measure(gateway: Gateway, turns: Turns) -> dict[str, tuple[str, float]]:
    """Values with their units, by workload."""
    found: dict[str, tuple[str, float]] = {}
    turns.run(1, WARM_BURSTS)
    turns.run(PROFILE_BURST, WARM_BURSTS)
    settle(gateway)
    before, began = gateway.cpu_seconds(), time.perf_counter()
    time.sleep(REST_S)
    at_rest = (gateway.cpu_seconds() - before) / (time.perf_counter() - began)
    found[f"{TURNS}at rest, all processes"] = "% of a core", at_rest * 100
    for requests, bursts in BURSTS.items():
        before = gateway.cpu_seconds()
        seconds = turns.run(requests, bursts)
        used_s = gateway.cpu_seconds() - before - at_rest * seconds
        what = "one request a turn" if requests == 1 else f"{requests} requests a turn"
        found[f"{TURNS}{what}"] = "CPU µs/request", used_s / (requests * bursts) * 1e6
    return found


def profile(gateway: Gateway, turns: Turns, scratch: Path) -> dict[str, float]:
    """CPU µs a request by function, all processes and threads together: the heaviest, and the rest as one."""
    turns.run(PROFILE_BURST, WARM_BURSTS)
    settle(gateway)
    files = [scratch / f"stacks-{pid}.txt" for pid in gateway.workers]
    recorders = [record(pid, file, rate=SAMPLES_PER_S) for pid, file in zip(gateway.workers, files, strict=True)]
    before = gateway.cpu_seconds()
    turns.run(PROFILE_BURST, PROFILE_BURSTS)
    used_s = gateway.cpu_seconds() - before
    for recorder in recorders:
        recorder.send_signal(signal.SIGINT)
    for recorder in recorders:
        recorder.wait(loadgen.GRACE_SECONDS)
    own = sum((own_time(file.read_text()) for file in files), Counter[str]())
    each_us = used_s / (PROFILE_BURST * PROFILE_BURSTS) * 1e6 / own.total()
    return {function: count * each_us for function, count in own.items()}


def own_time(stacks: str) -> Counter[str]:
    """Samples by function, without its line."""
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        _, *calls = frames.split(";")
        if calls:
            own[re.sub(r":\d+\)$", ")", calls[-1])] += int(count)
    return own


def heaviest(profiles: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The functions that are heaviest in any of some profiles, and all others together."""
    total: Counter[str] = Counter()
    for functions in profiles.values():
        for function, us in functions.items():
            total[function] = max(total[function], us)  # type: ignore[assignment]
    chosen = [function for function, _ in total.most_common(FUNCTIONS)]
    return {
        system: {function: functions.get(function, 0.0) for function in chosen}
        | {"all others": sum(us for function, us in functions.items() if function not in chosen)}
        for system, functions in profiles.items()
    }
