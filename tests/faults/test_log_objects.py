"""The log in an object store under faults: an owner that sleeps, puts that are cut, a store that is away, a lost disk.

Throughout: nothing acknowledged is lost, doubled or reordered, clients are told only what they may try again, and all
of it goes on by itself.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, Disconnected, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Partition, read_partition
from tests.faults.history import Value as Numbered
from tests.faults.load import BatchWriter, Client, Committer, IdempotentWriter, Load, RealWriter, TailReader
from tests.faults.settings import SEED, SOAK, scaled
from tests.faults.tiered import MOVED_SECONDS_MAX, Bucket, problems, settings_for, until
from tests.faults.transactional import TransactionalProducer, read_committed
from tests.tier2.fault_proxy import CutAnswer, CutRequest, Fault, FaultProxy, LoseAnswer, Refuse, Stall, slow_down
from tests.tier2.minio_server import MinioServer

TOPIC: Final = "objects"
EVERYWHERE: Final[list[Partition]] = [(TOPIC, number) for number in range(3)]
SLEEPS_S: Final = [1.0, 5.0, 20.0, 60.0] if SOAK else [0.5]
AWAY_S: Final = scaled(5, 60)
"""More than twice the time-out of a put."""
CUT_S: Final = scaled(4, 600)
HARMED: Final = 5
"""More puts than this meet a fault."""
REQUEST_TIMED_OUT: Final = 7
CONFLICT: Final = Refuse(409, b"<Error><Code>ConditionalRequestConflict</Code><Message>At once.</Message></Error>")
PIPELINED: Final = 20

pytestmark = pytest.mark.timeout(0 if SOAK else 480)


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory)
    server.start()
    yield server
    server.kill()


def gateway_on(directory: Path, minio: MinioServer, *, port: int | None = None, **changes: object) -> Gateway:
    """A machine whose log lies in the bucket."""
    own = {"log_store": "object", "log_object_timeout_ms": 2_000, **changes}
    return Gateway(directory, settings_for(minio, port=port, **own))


def on_another_machine(gateway: Gateway, directory: Path) -> None:
    """The disk is lost, and the same flags are used elsewhere."""
    gateway.kill()
    shutil.rmtree(gateway.data)
    directory.mkdir()
    gateway.data = directory / "data"
    gateway.start()


def test_an_owner_that_slept_acknowledges_nothing(tmp_path: Path, minio: MinioServer) -> None:
    """Stopped with requests on their way, while another takes over: what it answers later is no acknowledgement."""
    numbers = iter(range(1_000_000))

    def batch() -> tuple[Numbered, bytes]:
        value = Numbered("w", 0, next(numbers))
        return value, encode_batch([value.encode(100)])

    acknowledged: list[Numbered] = []
    sleeper = gateway_on(tmp_path / "0", minio)
    sleeper.start()
    with sleeper.connect() as connection:
        connection.create_topic(TOPIC, 1)
    for turn, sleep_s in enumerate(SLEEPS_S, 1):
        taker = gateway_on(tmp_path / str(turn), minio)
        taker.arguments = ("--take-over",)
        with sleeper, sleeper.connect() as early, sleeper.connect() as late:
            on_their_way = [batch() for _ in range(PIPELINED)]
            for _, records in on_their_way:
                early.send_produce(TOPIC, 0, records)
            assert sleeper.process is not None
            sleeper.process.send_signal(signal.SIGSTOP)
            late.send_produce(TOPIC, 0, batch()[1])  # the kernel takes it
            taker.start()
            time.sleep(sleep_s)
            with taker.connect() as connection:
                value, records = batch()
                assert connection.produce(TOPIC, 0, records).code == 0
            sleeper.process.send_signal(signal.SIGCONT)
            before = [one for one, _ in on_their_way[: answered(early)]]
            acknowledged += [*before, value]
            assert answered(late) == 0, "an owner that slept has acknowledged"
            assert sleeper.await_end() != 0
        sleeper = taker
    with sleeper, sleeper.connect() as connection:
        found = [entry for _, entry in read_partition(connection, (TOPIC, 0))[1]]
        assert len(found) == len(set(found)), "something is there twice"
        assert [one for one in found if one in set(acknowledged)] == acknowledged, f"seed {SEED}"


def answered(connection: Connection) -> int:
    """How many of the requests on their way are acknowledged, before the first that is not."""
    count = 0
    try:
        while connection.receive_produced().code == 0:
            count += 1
            if count == PIPELINED:
                break
    except Disconnected:
        pass
    return count


def started(gateway: Gateway) -> None:
    gateway.start()
    with gateway.connect() as connection:
        connection.create_topic(TOPIC, len(EVERYWHERE))


def test_puts_that_are_cut(tmp_path: Path, minio: MinioServer) -> None:
    """Requests and answers of the log's puts break off, come late, or are refused with 503 and 409, one in two."""
    dice, history = random.Random(SEED), History()
    faults: list[Fault] = [LoseAnswer(), CutRequest(0.5), CutAnswer(0), Stall(0.2), slow_down(), CONFLICT]
    with FaultProxy(minio.port) as proxy, gateway_on(tmp_path / "a", minio, port=proxy.port) as gateway:
        started(gateway)
        clients: list[Client | RealWriter] = [
            BatchWriter("plain", lambda: gateway.address, history, EVERYWHERE, SEED),
            IdempotentWriter("sure", lambda: gateway.address, history, EVERYWHERE, SEED),
            RealWriter("real", gateway.address, history, EVERYWHERE[1], SEED),
            TailReader(lambda: gateway.address, history, EVERYWHERE[0], SEED),
            Committer(lambda: gateway.address, history, EVERYWHERE[2], SEED),
        ]
        met = 0

        def choose(line: str) -> Fault | None:
            nonlocal met
            if not line.startswith("PUT") or "/log/" not in line or dice.random() < 0.5:
                return None
            met += 1
            return dice.choice(faults)

        with Load(clients) as load:
            proxy.chooses = choose
            load.run_for(CUT_S)
            load.run_for(MOVED_SECONDS_MAX, until=lambda: met > HARMED)
            proxy.chooses = lambda line: None
            assert load.problems() == [], f"seed {SEED}"
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        assert problems(gateway, history, EVERYWHERE) == [], f"seed {SEED}"
        on_another_machine(gateway, tmp_path / "b")
        assert problems(gateway, history, EVERYWHERE) == [], f"on another machine, seed {SEED}"
        assert met > HARMED
        print(f"seed {SEED}: {met} puts came to harm, {history.acknowledged_count()} records acknowledged")


@pytest.mark.parametrize("how", ["stands still", "is gone"] if SOAK else ["stands still"])
def test_a_store_that_is_away(tmp_path: Path, minio: MinioServer, how: str) -> None:
    """Nothing is acknowledged meanwhile, producers are told to try again at most, and it goes on by itself."""
    history = History()
    with gateway_on(tmp_path / "a", minio) as gateway:
        started(gateway)
        plain = BatchWriter("plain", lambda: gateway.address, history, EVERYWHERE, SEED)
        clients: list[Client | RealWriter] = [
            plain,
            RealWriter("real", gateway.address, history, EVERYWHERE[1], SEED),
            TailReader(lambda: gateway.address, history, EVERYWHERE[0], SEED),
        ]
        codes: set[int] = set()
        plain.refused = lambda writer, first, code: codes.add(code)  # type: ignore[method-assign]
        with Load(clients) as load:
            load.run_for(1)
            if how == "stands still":
                minio.pause()
            else:
                minio.kill()

            def is_still() -> bool:
                count = history.acknowledged_count()
                load.run_for(1)
                return history.acknowledged_count() == count

            until(is_still, "what was answered before has been heard")
            before = history.acknowledged_count()
            load.run_for(AWAY_S)
            assert history.acknowledged_count() == before, "acknowledged while the store was away"
            if how == "stands still":
                minio.resume()
            else:
                minio.start()
            until(lambda: history.acknowledged_count() > before, "it goes on")
            load.run_for(1)
            assert load.problems() == [], f"seed {SEED}"
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        assert codes <= {REQUEST_TIMED_OUT}, f"producers were told {codes}"
        on_another_machine(gateway, tmp_path / "b")
        assert problems(gateway, history, EVERYWHERE) == [], f"on another machine, seed {SEED}"


def test_transactions_and_groups_outlive_a_disk(tmp_path: Path, minio: MinioServer) -> None:
    """Three containers: what was committed, aborted or open, and a group's offsets, are there on another machine."""
    with gateway_on(tmp_path / "a", minio, containers=3) as gateway:
        started(gateway)
        for turn in range(scaled(2, 50)):
            with gateway.connect() as connection:
                producer = TransactionalProducer(connection, "t")
                for commit in (True, False):
                    for topic, number in EVERYWHERE:
                        producer.produce(topic, number, [b"%d %s" % (turn, b"yes" if commit else b"no")])
                    producer.commit_offset("g", TOPIC, 0, 10 * turn + (5 if commit else 7))
                    producer.end(commit=commit)
                producer.produce(TOPIC, 1, [b"%d open" % turn])
            on_another_machine(gateway, tmp_path / f"b{turn}")
            with gateway.connect() as connection:
                TransactionalProducer(connection, "t")  # ends what was open
                for topic, number in EVERYWHERE:
                    values = [value for _, value in read_committed(connection, topic, number)]
                    assert values == [b"%d yes" % one for one in range(turn + 1)]
                assert connection.committed_offset("g", TOPIC, 0) == 10 * turn + 5


def test_a_missing_object_is_named(tmp_path: Path, minio: MinioServer) -> None:
    """A start that would leave out what lies behind it is refused, and goes well once the object is back."""
    bucket = Bucket(minio)
    with gateway_on(tmp_path / "a", minio, checkpoint_interval_ms=60_000) as gateway:
        started(gateway)
        with gateway.connect() as connection:
            for number in range(20):
                assert connection.produce(TOPIC, 0, encode_batch([b"%d" % number])).code == 0
        gateway.kill()
        keys = sorted(key for key in bucket.objects("penstock/log/0/") if "/00000000000000000001/" in key)
        key = keys[len(keys) // 2]
        whole = bucket.get(key)
        bucket.remove(key)
        gateway.launch()
        assert gateway.await_end() != 0
        assert f"the log object {key.removeprefix('penstock/')} is missing" in gateway.last_output()
        bucket.put(key, whole)
        gateway.start()
        with gateway.connect() as connection:
            assert connection.list_offset(TOPIC, 0, -1) == 20
