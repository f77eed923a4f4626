"""A wall clock that jumps: nothing is lost by it, no time-out hangs on it."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Final

from tests.faults.client import Connection, encode_batch, string
from tests.faults.faultlayer import Faults
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History, Value, check_history, read_outcome

DAY_S: Final = 86_400
P: Final = ("timed", 0)
TOLERANT: Final = {  # records may look like tomorrow's when the broker's clock is behind
    "retention.ms": str(3 * DAY_S * 1000),
    "message.timestamp.after.max.ms": str(3 * DAY_S * 1000),
}
SILENT: Final = ("silent", 0)
SHORT_MS: Final = 300
LONG_MS: Final = 60_000
"""The longest wait that there is: longer than all that happens after one jump, and far shorter than the jump."""
WAIT_SECONDS_MAX: Final = 60.0
POLL_BYTES: Final = 1 << 20


def test_wall_clock_jumps(tmp_path: Path) -> None:
    """Back a day, forward two, back again, each time with writes, commits, long polls and a restart. A long poll does
    not end with a jump beyond its time; one whose time is short ends though the jump has put its end a day away."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    history = History()
    writer = history.writer("w", P, idempotent=True)
    with Gateway(tmp_path, EAGER) as gateway:
        environment = Faults(gateway.data, clock=clock).environment()
        gateway.start(environment)
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1, TOLERANT)
            connection.create_topic(SILENT[0], 1, TOLERANT)
            identity = connection.init_producer_id()
        for jump_s in (0, -DAY_S, DAY_S, -DAY_S, 0):
            with gateway.connect() as connection, gateway.connect() as long, gateway.connect() as short:
                silent = connection.list_offset(*SILENT, -1)
                long.send_fetch({SILENT[0]: {SILENT[1]: silent}}, LONG_MS, POLL_BYTES)
                short.send_fetch({SILENT[0]: {SILENT[1]: silent}}, SHORT_MS, POLL_BYTES)
                connection.list_offset(*SILENT, -1)  # one event loop answers: both polls are under way by then
                set_clock(clock, jump_s)
                for _ in range(20):
                    first, writer.sent = writer.sent, writer.sent + 1
                    batch = encode_batch([Value("w", 0, first).encode()], *identity, sequence=first)
                    produced = connection.produce(*P, batch)
                    assert produced.code == 0
                    writer.acknowledged[first] = produced.offset
                history.committing("g", P, writer.sent)
                connection.commit_offset("g", *P, writer.sent)
                history.committed("g", P, writer.sent)
                assert short.receive_fetched()[SILENT].records == b""
                assert connection.fetch(*P, writer.sent, SHORT_MS).records == b"", "it began behind the jump"
                assert not long.has_answer()
                connection.produce(*SILENT, encode_batch([b"x"]))
                assert long.receive_fetched()[SILENT].records
            gateway.kill()
            gateway.start(environment)
            with gateway.connect() as connection:
                outcome = read_outcome(connection, [P], history)
            assert check_history(history, outcome) == [], f"after a jump to {jump_s} s"
            assert outcome.starts == {P: 0}


def test_gateway_sees_the_clock_that_is_set(tmp_path: Path) -> None:
    """The experiment itself: LogAppendTime follows the wall clock that the layer shows."""
    clock = tmp_path / "clock"
    set_clock(clock, -DAY_S)
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.start(Faults(gateway.data, clock=clock).environment())
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1, {"message.timestamp.type": "LogAppendTime"})
            connection.produce(*P, encode_batch([b"x"]))
            records = connection.fetch(*P, 0).records
    (stamped_ms,) = struct.unpack_from(">q", records, 35)
    assert abs(stamped_ms / 1000 - (time.time() - DAY_S)) < DAY_S / 24


EXPIRING: Final = {
    **EAGER,
    "offsets.retention.minutes": 60,
    "offsets.retention.check.interval.ms": 100,
    "transactional.id.expiration.ms": 3_600_000,
    "transaction.remove.expired.transaction.cleanup.interval.ms": 100,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 50,
}
SWEPT: Final = ("swept", 0)


def test_wrong_date_expires_nothing(tmp_path: Path) -> None:
    """A date that is wrong at a start or becomes so later costs no record, offset or id; due ones go meanwhile."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    with Gateway(tmp_path, EXPIRING) as gateway:
        environment = Faults(gateway.data, clock=clock).environment()
        gateway.start(environment)
        with gateway.connect() as connection:
            connection.create_topic(P[0], 1, {"retention.ms": "3600000"})
            connection.produce(*P, encode_batch([b"x"]))
            connection.commit_offset("g", *P, 1)
            producer_id, epoch = transactional_identity(connection)
        for jump_s in (30 * DAY_S, -2 * DAY_S, 0):
            gateway.kill()
            set_clock(clock, jump_s)
            gateway.start(environment)
            with gateway.connect() as connection:
                for at_s in (jump_s, jump_s + 60 * DAY_S, jump_s):
                    set_clock(clock, at_s)
                    await_sweep(connection)
                    found = connection.list_offset(*P, -2), connection.committed_offset("g", *P)
                    assert found == (0, 1), f"with the clock at {at_s} s"
        with gateway.connect() as connection:
            assert transactional_identity(connection) == (producer_id, epoch + 1)


def await_sweep(connection: Connection) -> None:
    """Until retention has looked: a record of long ago in a topic of its own goes."""
    connection.create_topic(SWEPT[0], 1, {"retention.ms": "1"})
    connection.produce(*SWEPT, encode_batch([b"x"], timestamp_ms=1_000))
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while connection.list_offset(*SWEPT, -2) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    connection.delete_topic(SWEPT[0])


def transactional_identity(connection: Connection) -> tuple[int, int]:
    """Producer id and epoch of the id "t": the same producer id, as long as the id is remembered."""
    answer = connection.call(22, 1, string("t") + struct.pack(">i", 60_000))
    _, code, producer_id, epoch = answer.take("ihqh")
    assert code == 0
    return producer_id, epoch


def set_clock(clock: Path, offset_s: int) -> None:
    """In place: the process maps the file."""
    with clock.open("r+b" if clock.exists() else "wb") as file:
        file.write(struct.pack("<q", offset_s))
