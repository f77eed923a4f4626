"""Three nodes as processes over three members of etcd and one MinIO, with a link between any two that may be cut.

Each node has links of its own to each member of etcd and to MinIO; clients and the other nodes reach it by links, but
for its pulse: a link that leads to a process that has ended does not refuse as the process' own kernel does. What is
killed is started again with the same id, data directory and addresses.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import struct
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minio import Minio

from core.cluster.etcd.wire import end_of
from core.cluster.etcd_keys import MOVES, prefix_of
from core.cluster.etcd_keys import NODES as NODE_ROWS
from tests.core.cluster.etcd.servers import EtcdServer, stop_all, three_members
from tests.core.cluster.etcd.test_client import post
from tests.faults.client import Connection, Disconnected
from tests.faults.cluster.links import HOST, Link, Links
from tests.faults.faultlayer import Faults
from tests.faults.test_clock import set_clock
from tests.faults.tiered import QUICK
from tests.gateway.launching import PENSTOCK, Running, free_ports
from tests.patience import Patience
from tests.tier2.fault_proxy import Fault, FaultProxy
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

NODES: Final = (1, 2, 3)
CONTAINERS: Final = 6
PARTITIONS: Final = 12
"""Of the topic that tells who leads: more than containers, so that each has some."""
PROBE: Final = "probe"
LEASE_S: Final = 5.0
TAKEOVER_S: Final = 12.0
"""The bound on the time in which others have the containers of a node that is gone, paused or cut off. Lease and bound
are a little longer than by default, as a busy machine may be late to renew. Each wait is lengthened by what the nodes
have waited for a processor (`tests.patience`)."""
PATIENT_LEASE_MS: Final = 8_000
"""Where no test waits for the end of a lease: the end of a process is noticed without it, and a busy machine may be
late to renew it."""
WHOLE_WITHIN_S: Final = 60.0
REST_S_MAX: Final = 0.2
"""Of each client of a history, between two steps: clients that never rest take all of the processor from nodes that
start, take over and move, and all that happens takes several times as long. A few transactions are under way at each
moment all the same."""
ASK_S: Final = 2.0
POLL_S: Final = 0.05
LOG_BYTES_MAX: Final = 16 << 20
"""Kept of what one node has said."""
METADATA: Final = 3
BUCKET: Final = "cluster"
PREFIX: Final = "a/prefix"

SETTINGS: Final[Mapping[str, object]] = {
    **{key: value for key, value in QUICK.items() if key != "checkpoint.interval.ms"},
    "checkpoint.interval.ms": 500,
    "log.max.bytes": 64 << 20,
    "log.object.timeout.ms": 2_000,
    "logging.format": "json",
    "cluster.containers": CONTAINERS,
    "cluster.lease.ms": int(LEASE_S * 1_000),
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1_000,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
}


def hurt_by(*what: str) -> Sequence[str]:
    """The command of a node that is hurt from within, see `tests.faults.cluster.hurt_node`."""
    return sys.executable, "-m", "tests.faults.cluster.hurt_node", *what, "--"


@dataclass
class Node:
    """One node, and the ways to and from it."""

    id: int
    etcd: list[Link]
    store: Link
    clients: Link
    inner: Link
    inner_port: int
    running: Running | None = None
    command: Sequence[str] = (PENSTOCK,)
    environ: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)  # that the others have not

    @property
    def pid(self) -> int:
        assert self.running is not None, f"node {self.id} does not run"
        return self.running.process.pid

    @property
    def has_ended(self) -> bool:
        return self.running is None or self.running.process.poll() is not None

    @property
    def links(self) -> list[Link]:
        return [*self.etcd, self.store, self.clients, self.inner]


class Nodes:
    """See the module. Use it as a context manager: nothing of it outlives that."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._links = Links()
        self._clocks = directory / "clocks"
        self.nodes: dict[int, Node] = {}

    def __enter__(self) -> Nodes:
        with ExitStack() as undo:
            self._enter(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            self.mend(node.id)
            self.kill(node.id)
        self._undo.close()

    def _enter(self, undo: ExitStack) -> None:
        self.etcd = three_members(self._directory / "etcd")
        undo.callback(stop_all, self.etcd)
        (self._directory / "minio").mkdir()
        self.minio = MinioServer(self._directory / "minio")
        undo.callback(self.minio.kill)
        self.minio.start()
        self._http = undo.enter_context(FaultProxy(self.minio.port))
        undo.enter_context(self._links)
        self._clocks.mkdir()
        ports = free_ports(len(NODES))
        for number, inner in zip(NODES, itertools.count(ports), strict=False):
            clock = self._clocks / str(number)
            set_clock(clock, 0)
            self.nodes[number] = Node(
                number,
                [self._links.make(member.port) for member in self.etcd],
                self._links.make(self.minio.port),
                self._links.make(),
                self._links.make(inner),
                inner,
                environ=Faults(self._directory, clock=clock).environment(),
            )

    # What a workload sees

    @property
    def address(self) -> str:
        return ",".join(node.clients.address for node in self.nodes.values())

    def log_tail(self, lines: int = 25) -> str:
        """The last of what each node has said."""
        told = []
        for number in self.nodes:
            err = self._directory / f"node-{number}" / "err"
            said = err.read_text(errors="replace").splitlines() if err.exists() else []
            told += [f"--- node {number}", *said[-lines:]]
        return "\n".join(told)

    def keep_logs(self, directory: Path) -> None:
        """Put what each node has said beside what a test has found: the end of it, over all of its processes."""
        for number in self.nodes:
            of_node = self._directory / f"node-{number}"
            said = b"".join(path.read_bytes() for name in ("log", "err") if (path := of_node / name).exists())
            (directory / f"node-{number}.log").write_bytes(said[-LOG_BYTES_MAX:])

    def life(self, number: int) -> str | None:
        """The life of a node, as etcd has it: another one once its lease was lost; None if it has none."""
        return self.lives().get(f"{prefix_of(BUCKET).decode()}{NODE_ROWS.decode()}{number}")

    def lives(self) -> dict[str, str]:
        """The lives of all nodes, by their keys."""
        below = prefix_of(BUCKET) + NODE_ROWS
        wanted = {"key": b64encode(below).decode(), "range_end": b64encode(end_of(below)).decode()}
        rows = self.ask_etcd("kv/range", wanted).get("kvs", [])
        return {b64decode(row["key"]).decode(): json.loads(b64decode(row["value"]))["life"] for row in rows}

    # Processes

    def start(self, *numbers: int) -> None:
        """Start these, and wait until each serves clients."""
        for number in numbers:
            self.launch(number)
        for number in numbers:
            self.await_ready(number)

    def launch(self, number: int) -> None:
        node = self.nodes[number]
        assert node.has_ended, f"node {number} runs already"
        directory = self._directory / f"node-{number}"
        if (directory / "err").exists():  # each process begins it anew
            with (directory / "log").open("ab") as log:
                log.write((directory / "err").read_bytes())
        members = ",".join(link.address for link in node.etcd)
        own = {
            "cluster.listen": f"{HOST}:{node.inner_port}={node.inner.address}",
            **SETTINGS,
            **node.settings,
        }
        node.running = Running(
            directory,
            *("--cluster", f"etcd://{members}/{BUCKET}", "--node-id", str(number)),
            *("--tier2", f"s3://{BUCKET}/{PREFIX}", "--tier2-endpoint", f"http://{node.store.address}"),
            *("--listen", f"{HOST}:0={node.clients.address}", "--http", "off"),
            *(f"--set={key}={value}" for key, value in own.items()),
            command=node.command,
            environ={
                "PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER,
                "PENSTOCK_TIER2_SECRET_KEY": ROOT_PASSWORD,
                "PENSTOCK_TIER2_REGION": "us-east-1",
                **node.environ,
            },
        )

    def await_ready(self, number: int) -> None:
        node = self.nodes[number]
        assert node.running is not None
        address = node.running.ready()["kafka"][0].rpartition("//")[2]
        node.clients.lead_to(int(address.rpartition(":")[2]))

    def kill(self, number: int) -> None:
        """kill -9; one that has ended is let be."""
        node = self.nodes[number]
        if node.running is not None and not node.has_ended:
            node.running.process.send_signal(signal.SIGCONT)
            node.running.process.kill()
            node.running.process.wait()

    def pause(self, number: int) -> None:
        os.kill(self.nodes[number].pid, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        os.kill(self.nodes[number].pid, signal.SIGCONT)

    def mend(self, number: int) -> None:
        """All ways to and from a node are whole again."""
        node = self.nodes[number]
        for link in node.links:
            link.mend()

    def set_clock(self, number: int, seconds: int) -> None:
        """Put the wall clock of a node off by so much, at any moment."""
        set_clock(self._clocks / str(number), seconds)

    # etcd and MinIO

    def leader_of_etcd(self) -> EtcdServer:
        """The member that leads; a while may pass until one does."""
        found: list[EtcdServer] = []

        def is_found() -> bool:
            for member in self.etcd:
                with suppress(OSError):  # one that does not run
                    status = post(member, "maintenance/status", {})
                    if status.get("leader") == status["header"]["member_id"]:
                        found.append(member)
            return bool(found)

        self._until(is_found, TAKEOVER_S, lambda: "etcd has no leader")
        return found[0]

    def ask_etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The leader's answer. It is asked again while there is none, or it is too busy to answer."""
        deadline = time.monotonic() + WHOLE_WITHIN_S
        while True:
            try:
                found: dict[str, Any] = post(self.leader_of_etcd(), path, body)
                return found
            except OSError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_S)

    def objects(self, prefix: str) -> dict[str, int]:
        """Keys and sizes of what the bucket has below a prefix of the cluster's."""
        client = Minio(f"{HOST}:{self.minio.port}", ROOT_USER, ROOT_PASSWORD, secure=False, region="us-east-1")
        found = client.list_objects(BUCKET, prefix=f"{PREFIX}/{prefix}", recursive=True)
        return {str(one.object_name): one.size or 0 for one in found}

    def misbehave(self, chooses: Callable[[str], Fault | None], numbers: Iterable[int] = NODES) -> None:
        """These nodes' requests to MinIO come to harm, as told by their first lines. `behave` ends it."""
        self._http.chooses = chooses
        for number in numbers:
            self.nodes[number].store.lead_to(self._http.port)

    def behave(self) -> None:
        for node in self.nodes.values():
            node.store.lead_to(self.minio.port)

    # Who leads

    def leaders(self, asked: int) -> dict[tuple[str, int], int]:
        """The leader of each partition, as one node tells it; nothing if it does not answer."""
        try:
            with Connection(self.nodes[asked].clients.address, ASK_S) as connection:
                answer = connection.call(METADATA, 1, struct.pack(">i", -1))
        except (Disconnected, OSError):
            return {}
        for _ in answer.times():
            answer.one("i"), answer.string(), answer.one("i"), answer.string()
        answer.one("i")
        found: dict[tuple[str, int], int] = {}
        for _ in answer.times():
            answer.one("h")
            topic = answer.string() or ""
            answer.one("b")
            for _ in answer.times():
                _, number, leader = answer.take("hii")
                found[topic, number] = leader
                for _ in range(2):
                    for _ in answer.times():
                        answer.one("i")
        return found

    def led_by(self, node: int, asked: int) -> list[tuple[str, int]]:
        """The partitions that a node leads, as another one tells."""
        return sorted(place for place, leader in self.leaders(asked).items() if leader == node)

    def until_led_by_others(self, gone: Iterable[int], within_s: float = TAKEOVER_S) -> None:
        """Until each partition has a leader that is none of these, as each other node tells."""
        out = {*gone, -1}
        for asked in [number for number in self.nodes if number not in out]:
            self._until(
                lambda asked=asked: bool(found := self.leaders(asked)) and not out & set(found.values()),  # type: ignore[misc]
                within_s,
                lambda asked=asked: f"{self._told()}; {sorted(out)} should lead nothing, says node {asked}",  # type: ignore[misc]
            )

    def until_led(self, within_s: float = WHOLE_WITHIN_S) -> set[int]:
        """Until each partition has a leader, and all nodes that run agree on it; returns those that lead something."""
        found: set[int] = set()

        def is_led() -> bool:
            found.update(self._leading())
            return bool(found)

        self._until(is_led, within_s, self._told)
        return found

    def until_whole(self, within_s: float = WHOLE_WITHIN_S) -> None:
        """Until it is so, and each node that runs leads something."""
        self._until(lambda: self._leading() == set(self._running()), within_s, self._told)

    def _leading(self) -> set[int]:
        """The nodes that lead something; nobody unless each partition has a leader that runs, and all agree on it."""
        told = [self.leaders(asked) for asked in self._running()]
        found = {leader for one in told for leader in one.values()}
        return found if found <= set(self._running()) and all(one == told[0] for one in told) else set()

    def _running(self) -> list[int]:
        return [number for number, node in self.nodes.items() if not node.has_ended]

    def _told(self) -> str:
        """How many partitions each leads, as each tells that runs."""
        return str({asked: dict(Counter(self.leaders(asked).values())) for asked in self._running()})

    def patience(self, within_s: float) -> Patience:
        """For something that the nodes do, by the ways that lead through this process."""
        return Patience(within_s, lambda: [os.getpid(), *(self.nodes[number].pid for number in self._running())])

    def _until(self, condition: Callable[[], bool], within_s: float, what: Callable[[], str]) -> None:
        patience = self.patience(within_s)
        while not condition():
            assert not patience.is_over(), f"after {patience}: {what()}\n{self.log_tail()}"
            time.sleep(POLL_S)

    def until_ended(self, number: int, within_s: float) -> None:
        self._until(lambda: self.nodes[number].has_ended, within_s, lambda: f"node {number} lives on")

    def heal(self, *, until_all_lead: bool = True) -> None:
        """Whatever a test has left behind: mended, started, and led by all that run; nothing is to move any more, which
        would keep all else where it is."""
        self.behave()
        for number, node in self.nodes.items():
            self.mend(number)
            self.set_clock(number, 0)
            if node.command != (PENSTOCK,):
                self.kill(number)
                node.command = (PENSTOCK,)
        self.start(*(number for number, node in self.nodes.items() if node.has_ended))
        self._forget_moves()
        if until_all_lead:
            self.until_whole()
        else:
            self.until_led()

    def _forget_moves(self) -> None:
        below = prefix_of(BUCKET) + MOVES
        wanted = {"key": b64encode(below).decode(), "range_end": b64encode(end_of(below)).decode()}
        self.ask_etcd("kv/deleterange", wanted)

    def begin(self) -> None:
        """Start all nodes, with a topic that tells who leads which container."""
        self.start(*self.nodes)
        with Connection(self.nodes[1].clients.address) as connection:
            connection.create_topic(PROBE, PARTITIONS)
        self.until_whole()
