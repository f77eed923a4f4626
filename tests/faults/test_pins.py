"""One open transaction, one damaged record: the whole gateway goes on, over the wire, through a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, Refused, decode_batches, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.settings import scaled
from tests.faults.tiered import MIB, QUICK, until
from tests.faults.transactional import TransactionalProducer

NOT_ENOUGH_REPLICAS: Final = 19
VALUE_BYTES: Final = 50_000
LOG_MAX: Final = 6 * MIB
SMALL: Final = {**QUICK, "log.max.bytes": LOG_MAX}
DEFAULTS: Final[dict[str, object]] = {}

pytestmark = pytest.mark.timeout(0 if scaled(0, 1) else 400)


def write(connection: Connection, size: int) -> int:
    """Send records of `busy` until these bytes are acknowledged, again if they are refused; return their number."""
    sent = 0
    until(lambda: connection.list_offset("busy", 0, -1) >= 0, "the topic is there")
    batch = encode_batch([b".".ljust(VALUE_BYTES, b".")] * 8)
    for _ in range(size // (8 * VALUE_BYTES)):
        until(lambda: connection.produce("busy", 0, batch).code == 0, "a producer of another topic is served")
        sent += 8
    return sent


def values(connection: Connection, topic: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        fetched = connection.fetch_some(topic, 0, len(found))
        assert fetched.code == 0
        assert fetched.records
        found += [value for offset, value in decode_batches(fetched.records) if offset >= len(found)]
    return found[:count]


def until_refused(producer: TransactionalProducer, value: bytes) -> int:
    """The number of records of one transaction that are taken."""
    for count in range(4 * LOG_MAX // VALUE_BYTES):
        try:
            producer.produce("held", 0, [value])
        except Refused as refused:
            if refused.code != NOT_ENOUGH_REPLICAS:
                raise
            return count
    raise AssertionError("it is never refused")


@pytest.mark.parametrize(
    ("settings", "log_max"),
    [
        (SMALL, LOG_MAX),
        pytest.param(
            DEFAULTS, 4096 * MIB, marks=pytest.mark.skipif(not scaled(0, 1), reason="the log's size is 4 GiB")
        ),
    ],
)
def test_one_open_transaction_holds_up_nobody(tmp_path: Path, settings: dict[str, object], log_max: int) -> None:
    """More than the log holds goes through beside one open record, which is there after a kill, and is committed."""
    with Gateway(tmp_path, settings) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("held", 1)
            connection.create_topic("busy", 1)
            producer = TransactionalProducer(connection, "hold-me", 900_000)
            assert producer.produce("held", 0, [b"held"]) == 0
            sent = write(connection, 3 * log_max // 2)
        gateway.kill()
        gateway.start()
        with gateway.connect() as connection:
            producer._client = connection
            assert values(connection, "held", 1) == [b"held"]
            sent += write(connection, log_max // 4)
            producer.end(commit=True)
            assert values(connection, "held", 1) == [b"held"]
            assert connection.list_offset("busy", 0, -1) >= sent  # what was sent again may be there twice
        assert gateway.stop() == 0


def test_a_transaction_that_outgrows_the_log_is_named(tmp_path: Path) -> None:
    """A pinning transaction's own partition is refused, and the log names its id; others are served, and it can end."""
    with Gateway(tmp_path, SMALL) as gateway:
        gateway.start()
        with gateway.connect() as connection, gateway.connect() as other:
            connection.create_topic("held", 1)
            connection.create_topic("busy", 1)
            producer = TransactionalProducer(connection, "greedy-one", 900_000)
            value = b"!".ljust(VALUE_BYTES, b"!")
            count = until_refused(producer, value)
            assert count * VALUE_BYTES > LOG_MAX // 4
            write(other, LOG_MAX)
            said = gateway.output.read_text()
            assert "greedy-one" in said
            assert "held-0" in said
            producer.end(commit=True)
            until(lambda: connection.produce("held", 0, encode_batch([b"x"])).code == 0, "it is served again")
            assert values(connection, "held", count) == [value] * count
