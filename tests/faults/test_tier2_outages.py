"""Long-term storage that goes away, stands still, refuses, cuts connections: producers and tail readers never notice.

Throughout: nothing acknowledged is lost or reordered, whatever lies in the log or in chunks; when storage is back,
everything goes on by itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Partition, Value
from tests.faults.load import BatchWriter, CatchUpReader, Client, IdempotentWriter, Load, RealWriter, TailReader
from tests.faults.settings import SEED, SOAK, scaled
from tests.faults.tiered import (
    MIB,
    MOVED_SECONDS_MAX,
    Bucket,
    RevocableUser,
    await_moved,
    problems,
    settings_for,
    until,
    verify,
)
from tests.tier2.fault_proxy import CutAnswer, Fault, FaultProxy, LoseAnswer, Refuse, slow_down
from tests.tier2.minio_server import MinioServer

TOPIC: Final = "away"
EVERYWHERE: Final[list[Partition]] = [(TOPIC, number) for number in range(3)]
RETRIABLE: Final = {7, 19, 56, 89}
OUTAGES: Final = scaled(3, 200)
PAUSE_S: Final = scaled(6, 60)
"""Longer than the longest time-out, which is four seconds."""
STEADY_S: Final = scaled(10, 600)
FAULTS_MAX: Final = scaled(30, 1 << 30)
"""So many requests come to harm, each kind of fault several times, unless the time is over."""
FAULTS_MIN: Final = 5
REFUSED_S: Final = scaled(2, 300)
"""Several tries of everything that is due."""
BEFORE_S: Final = 2.0
REFUSALS: Final = 20
FILLED_SECONDS_MAX: Final = 120.0
"""Producers are slowed down for half a minute before that."""
LOG_MAX: Final = 6 * MIB
VALUE_BYTES: Final = 30_000

pytestmark = pytest.mark.timeout(0 if SOAK else 480)


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory)
    server.start()
    yield server
    server.kill()


def load_on(gateway: Gateway, history: History) -> list[Client | RealWriter]:
    """Writers of all kinds, readers at the tail, and one that begins at the beginning again and again."""

    def address() -> str:
        return gateway.address

    return [
        BatchWriter("plain", address, history, EVERYWHERE, SEED),
        IdempotentWriter("sure", address, history, EVERYWHERE, SEED),
        RealWriter("real", gateway.address, history, EVERYWHERE[1], SEED),
        TailReader(address, history, EVERYWHERE[0], SEED),
        TailReader(address, history, EVERYWHERE[1], SEED),
        CatchUpReader(address, history, EVERYWHERE[0], SEED),
        CatchUpReader(address, history, EVERYWHERE[2], SEED),
    ]


def under_load(gateway: Gateway, bucket: Bucket, during: Callable[[Load], None]) -> None:
    """Start, load it, let something happen to its storage; then all of it moves, and all of it is there."""
    history = History()
    gateway.start()
    with gateway.connect() as connection:
        connection.create_topic(TOPIC, len(EVERYWHERE))
    clients = load_on(gateway, history)
    with Load(clients) as load:
        load.run_for(BEFORE_S)
        until(bucket.chunks, "the first chunk is there")
        during(load)
        assert load.problems() == [], f"seed {SEED}"
        load.drain()
        assert load.problems() == [], f"seed {SEED}"
    with gateway.connect() as connection:
        fill(connection)
        for topic, number in EVERYWHERE:
            await_moved(connection, (topic, number), connection.list_offset(topic, number, -1))
    assert problems(gateway, history, EVERYWHERE) == [], f"seed {SEED}"
    assert gateway.stop() == 0
    found = verify(gateway)
    assert (found["missing"], found["damaged"]) == ([], []), f"seed {SEED}"
    gateway.start()
    assert problems(gateway, history, EVERYWHERE) == [], f"after a clean stop, seed {SEED}"
    rounds = sum(client.rounds for client in clients if isinstance(client, CatchUpReader))
    print(f"seed {SEED}: {history.acknowledged_count()} records acknowledged, read {rounds} times from the beginning")


def fill(connection: Connection) -> None:
    """Make the log begin its next file, so that those with the test's records may go."""
    connection.create_topic("filler", 1)
    for _ in range(2 * MIB // VALUE_BYTES):
        assert connection.produce("filler", 0, encode_batch([bytes(VALUE_BYTES)])).code == 0


def test_killed_and_restarted(tmp_path: Path, minio: MinioServer) -> None:
    """The server dies at random moments and comes back."""
    dice = random.Random(SEED)

    def dies(load: Load) -> None:
        for number in range(OUTAGES):
            load.run_for(dice.random() * 1.5)
            minio.kill()
            load.run_for(dice.random() * 3)
            assert load.problems() == [], f"outage {number + 1}, seed {SEED}"
            minio.start()

    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        under_load(gateway, Bucket(minio), dies)


def test_stands_still(tmp_path: Path, minio: MinioServer) -> None:
    """The server takes connections and answers nothing, for longer than every time-out."""

    def pauses(load: Load) -> None:
        minio.pause()
        try:
            load.run_for(PAUSE_S)
        finally:
            minio.resume()

    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        under_load(gateway, Bucket(minio), pauses)


def test_refuses_and_cuts(tmp_path: Path, minio: MinioServer) -> None:
    """One request in three fails: it is refused, its answer is cut short, or lost after it was carried out."""
    dice = random.Random(SEED)
    faults: Sequence[Callable[[], Fault]] = [
        slow_down,
        slow_down,
        lambda: Refuse(500),
        lambda: CutAnswer(dice.randrange(2_000)),
        LoseAnswer,
    ]

    with FaultProxy(minio.port) as proxy:
        met = 0

        def choose(line: str) -> Fault | None:
            nonlocal met
            if dice.random() >= 1 / 3:
                return None
            met += 1
            return dice.choice(faults)()

        def misbehaves(load: Load) -> None:
            proxy.chooses = choose
            load.run_for(STEADY_S, until=lambda: met >= FAULTS_MAX)
            load.run_for(MOVED_SECONDS_MAX, until=lambda: met >= FAULTS_MIN)
            proxy.chooses = lambda line: None
            assert met >= FAULTS_MIN, "hardly anything came to harm"

        with Gateway(tmp_path / "gateway", settings_for(minio, port=proxy.port)) as gateway:
            under_load(gateway, Bucket(minio), misbehaves)


def test_credentials_revoked(tmp_path: Path, minio: MinioServer) -> None:
    """The key is taken back while the gateway runs; given again, everything goes on. The log says what was refused."""
    user = RevocableUser(minio)
    settings = settings_for(minio) | {"tier2.access.key": user.name, "tier2.secret.key": user.secret}
    with Gateway(tmp_path / "gateway", settings) as gateway:

        def is_told() -> bool:
            said = gateway.output.read_text()
            return "the access key is not known there" in said or "the credentials may not do this" in said

        def revoked(load: Load) -> None:
            user.revoke()
            load.run_for(MOVED_SECONDS_MAX, until=is_told)
            load.run_for(REFUSED_S)
            user.restore()

        under_load(gateway, Bucket(minio), revoked)
        assert is_told()
        assert user.secret not in gateway.output.read_text()


def test_full_log(tmp_path: Path, minio: MinioServer) -> None:
    """Producers are slowed down, then refused with errors on which they try again, and go on by themselves."""
    history = History()
    partition = TOPIC, 0
    settings = settings_for(minio, log_max_bytes=LOG_MAX)
    with Gateway(tmp_path / "gateway", settings) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, 1)
            real = RealWriter("real", gateway.address, history, partition, SEED)
            with Load([real]) as load:
                minio.pause()
                try:
                    throttled, refused = write_until_refused(connection, history, partition)
                    assert throttled > 0, "producers were not slowed down"
                    assert refused in RETRIABLE
                    assert log_bytes(gateway) <= LOG_MAX + 2 * MIB
                    assert connection.fetch(*partition, 0).code == 0, "the log is still read from"
                finally:
                    minio.resume()
                write_again(connection, history, partition)
                load.drain()
                assert load.problems() == []
        assert problems(gateway, history, [partition]) == []
        assert gateway.stop() == 0


def write_until_refused(connection: Connection, history: History, partition: Partition) -> tuple[int, int]:
    """The number of answers that asked to slow down, and the code of the last of several refusals in a row: a single
    one may come of a log whose next file is not ready yet."""
    writer = history.writer("filler", partition, idempotent=False)
    throttled = refused = 0
    deadline = time.monotonic() + FILLED_SECONDS_MAX
    while time.monotonic() < deadline:
        number, writer.sent = writer.sent, writer.sent + 1
        value = Value(writer.name, partition[1], number).encode(VALUE_BYTES)
        produced = connection.produce(*partition, encode_batch([value]))
        throttled += produced.throttle_ms > 0
        if not produced.code:
            writer.acknowledged[number], refused = produced.offset, 0
            continue
        refused += 1
        if refused == REFUSALS:
            return throttled, produced.code
        time.sleep(0.05)
    raise AssertionError(f"never refused, with {writer.sent} records of {VALUE_BYTES} bytes written")


def write_again(connection: Connection, history: History, partition: Partition) -> None:
    """Until records are taken again, several in a row."""
    writer = history.writer("filler", partition, idempotent=False)
    taken = 0

    def taken_again() -> bool:
        nonlocal taken
        while taken <= LOG_MAX // VALUE_BYTES:
            number, writer.sent = writer.sent, writer.sent + 1
            value = Value(writer.name, partition[1], number).encode(VALUE_BYTES)
            produced = connection.produce(*partition, encode_batch([value]))
            if produced.code:
                assert produced.code in RETRIABLE
                taken = 0
                return False
            writer.acknowledged[number] = produced.offset
            taken += 1
        return True

    until(taken_again, "writes go on", 120)


def log_bytes(gateway: Gateway) -> int:
    return sum(path.stat().st_size for path in gateway.data.glob("store/container-*/log/*.log"))
