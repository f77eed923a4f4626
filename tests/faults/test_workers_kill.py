"""kill -9 under load, many times in a row, of a gateway of four containers and two workers: of a random worker, of the
supervisor, which takes the workers with it, or of all of them at once, some while they recover."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from tests.faults.client import Connection, Fetched, Refused
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History, Partition, check_history, read_outcome
from tests.faults.load import BatchWriter, Client, Committer, IdempotentWriter, Load, RealWriter, TailReader
from tests.faults.questions import ask, ask_everything
from tests.faults.settings import SEED, SOAK
from tests.faults.test_workers import until, workers
from tests.gateway.launching import free_ports

SETTINGS: Final = {**EAGER, "log.file.bytes": 4 << 20, "containers": 4, "workers": 2}
IN_CI: Final = 6
IN_SOAK: Final = 25
UP_SECONDS_MAX: Final = 0.9
STARTING_KILL_SHARE: Final = 0.4
PARTITIONS: Final = 8
ASKED: Final = 2  # partitions of which everything is asked after each kill
TOPIC: Final = "killed"
GROUPS: Final = ("group-0", "group-5")
WAIT_S: Final = 60.0
NOT_COORDINATOR: Final = 16

KINDS: Final = ("worker", "supervisor", "all")
RUNS: Final = [(kind,) for kind in KINDS] if SOAK else [KINDS]


class Routed(Connection):
    """A connection to each worker; what is asked of a partition goes to its leader, of a group to its coordinator."""

    def __init__(self, servers: Sequence[str], leaders: Mapping[Partition, str]) -> None:
        super().__init__(servers[0])
        self._leaders = leaders
        self._each = {server: Connection(server) for server in servers}

    def close(self) -> None:
        super().close()
        for connection in self._each.values():
            connection.close()

    def _at(self, topic: str, partition: int) -> Connection:
        return self._each[self._leaders[topic, partition]]

    def tier_offset(self, topic: str, partition: int, timestamp: int) -> int:
        return self._at(topic, partition).tier_offset(topic, partition, timestamp)

    def list_offset(self, topic: str, partition: int, timestamp: int) -> int:
        return self._at(topic, partition).list_offset(topic, partition, timestamp)

    def fetch_some(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Fetched:
        return self._at(topic, partition).fetch_some(topic, partition, offset, max_bytes)

    def committed_offset(self, group: str, topic: str, partition: int) -> int:
        return self._each[self.coordinator(group, topic)].committed_offset(group, topic, partition)

    def coordinator(self, group: str, topic: str) -> str:
        """The worker that does not send a question about the group elsewhere."""
        for server, connection in self._each.items():
            try:
                connection.committed_offset(group, topic, 0)
            except Refused as refused:
                if refused.code != NOT_COORDINATOR:
                    raise
            else:
                return server
        raise AssertionError(f"no worker has group {group!r}")


class PatientCommitter(Committer):
    """A worker that ends with its killed supervisor says that it coordinates nothing any more: it is asked again."""

    def session(self, connection: Connection) -> None:
        try:
            super().session(connection)
        except Refused as refused:
            if refused.code != NOT_COORDINATOR:
                raise
            self.pause()


class Cluster:
    """The workers, by address: ports, leaders and coordinators stay over all kills."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.servers: list[str] = list(gateway.ready["kafka"])
        with Connection(self.servers[0]) as connection:
            connection.create_topic(TOPIC, PARTITIONS)
        found = AdminClient({"bootstrap.servers": self.servers[0], "log_level": 0}).list_topics(TOPIC, WAIT_S)
        led = {number: found.brokers[one.leader] for number, one in found.topics[TOPIC].partitions.items()}
        self.leaders = {(TOPIC, number): f"{broker.host}:{broker.port}" for number, broker in led.items()}
        assert set(self.leaders.values()) == set(self.servers)
        with self.connect() as connection:
            self.coordinators = {group: connection.coordinator(group, TOPIC) for group in GROUPS}

    @contextmanager
    def connect(self) -> Iterator[Routed]:
        connection = Routed(self.servers, self.leaders)
        try:
            yield connection
        finally:
            connection.close()

    def leader(self, partition: Partition) -> Callable[[], str]:
        return lambda: self.leaders[partition]

    # What is done to it; each returns when all serve again

    def kill(self, kind: str, dice: random.Random) -> int:
        """Returns how many of these kills met a process that was starting."""
        return self._kill_worker(dice) if kind == "worker" else self._kill_all(dice, at_once=kind == "all")

    def _kill_worker(self, dice: random.Random) -> int:
        early = 0
        while True:
            before = workers(self.gateway)
            victim = dice.randrange(len(before))
            os.kill(before[victim], signal.SIGKILL)
            until(lambda: is_replaced(self.gateway, before, victim), "the worker is started again")  # noqa: B023
            if dice.random() >= STARTING_KILL_SHARE:
                break
            early += 1  # it has just been started
        self.until_served()
        return early

    def _kill_all(self, dice: random.Random, *, at_once: bool) -> int:
        early = 0
        while True:
            pids = workers(self.gateway)
            for pid in dice.sample(pids, len(pids)) if at_once else ():
                os.kill(pid, signal.SIGKILL)
            self.gateway.kill()
            until(lambda: not any(map(psutil.pid_exists, pids)), "all workers have ended")  # noqa: B023
            self.gateway.launch()
            if dice.random() >= STARTING_KILL_SHARE:
                break
            try:
                self.gateway.await_ready(dice.random() * self.gateway.last_start_seconds)
            except TimeoutError:
                early += 1
                until(lambda: not serving_processes(self.gateway), "what was starting has ended")
                self.gateway.launch()
                break
        self.gateway.await_ready()
        return early

    def until_served(self) -> None:
        """Each worker answers for a partition of its own."""
        with self.connect() as connection:
            for topic, number in self.leaders:
                connection.list_offset(topic, number, -1)


def is_replaced(gateway: Gateway, before: Sequence[int], victim: int) -> bool:
    now = workers(gateway)
    return len(now) == len(before) and now[victim] != before[victim]


def serving_processes(gateway: Gateway) -> list[int]:
    """All processes that work on the data directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(gateway.data) in " ".join(process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def everywhere() -> list[Partition]:
    return [(TOPIC, number) for number in range(PARTITIONS)]


def clients(cluster: Cluster, history: History) -> list[Client | RealWriter]:
    """Two plain writers and two idempotent ones at a worker each, a real one, two readers, two groups."""
    by_worker = [[place for place in everywhere() if cluster.leaders[place] == server] for server in cluster.servers]
    first, second = by_worker
    made: list[Client | RealWriter] = []
    for name, places in (("a", first), ("b", second)):
        leader = cluster.leader(places[0])
        made.append(BatchWriter(f"plain-{name}", leader, history, places, SEED))
        made.append(IdempotentWriter(f"sure-{name}", leader, history, places, SEED))
        made.append(TailReader(leader, history, places[0], SEED))
    made.append(RealWriter("real", ",".join(cluster.servers), history, second[0], SEED))
    for group in GROUPS:
        place = TOPIC, int(group.rpartition("-")[2])
        made.append(PatientCommitter(lambda group=group: cluster.coordinators[group], history, place, SEED))  # type: ignore[misc]
    return made


@pytest.mark.timeout(0 if SOAK else 600)
@pytest.mark.parametrize("kinds", RUNS, ids="-".join)
def test_killed_in_a_row_under_load(tmp_path: Path, kinds: Sequence[str]) -> None:
    """Whatever was acknowledged is there once and in order, and idempotent producers just go on."""
    dice = random.Random(SEED)
    history = History()
    early = 0
    count = IN_SOAK if SOAK else IN_CI
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(2)}")
        gateway.start()
        cluster = Cluster(gateway)
        with Load(clients(cluster, history)) as load:
            for number in range(count):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                kind = kinds[number % len(kinds)]
                early += cluster.kill(kind, dice)
                with cluster.connect() as connection:
                    problems = load.problems() + ask(connection, dice.sample(everywhere(), ASKED), dice)
                assert problems == [], f"after kill {number + 1}, of {kind}, seed {SEED}\n{gateway.last_output()}"
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with cluster.connect() as connection:
            assert found(connection, history) == [], f"seed {SEED}"
        assert gateway.stop() == 0
        gateway.start()
        with cluster.connect() as connection:
            assert found(connection, history) == [], f"after a clean stop, seed {SEED}"
    print(
        f"seed {SEED}: {count} kills of {kinds}, {early} of what was starting, {history.acknowledged_count()} records"
    )
    assert history.acknowledged_count() > 100 * count


def found(connection: Connection, history: History) -> list[str]:
    dice = random.Random(SEED)
    asked = ask_everything(connection, dice.sample(everywhere(), ASKED), dice)
    return asked + check_history(history, read_outcome(connection, everywhere(), history))
