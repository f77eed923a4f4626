"""A transactional producer of our own, in plain structs: transactions before KIP-890, with every partition named.

Like the `Connection` that it talks through it hides nothing, but for one thing: CONCURRENT_TRANSACTIONS says that the
end before is still being written, and is asked again.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tests.faults.client import (
    BATCH_HEADER,
    TIMEOUT_S,
    Connection,
    Fetched,
    Reader,
    array,
    check,
    decode_batches,
    encode_batch,
    string,
)

CONCURRENT_TRANSACTIONS: Final = 51
CONTROL: Final = 0x20
PAUSE_S: Final = 0.01


class TransactionalProducer:
    """One transactional id. At first it fences the previous user and ends that user's open transaction."""

    def __init__(self, client: Connection, transactional_id: str, timeout_ms: int = 60_000) -> None:
        self._client = client
        self._id = string(transactional_id)
        self._name = transactional_id
        self._sequences: dict[tuple[str, int], int] = {}
        answer = self._settled(lambda: client.call(22, 1, self._id + struct.pack(">i", timeout_ms)))
        self.producer_id, self.epoch = answer.take("qh")

    @property
    def _identity(self) -> bytes:
        return struct.pack(">qh", self.producer_id, self.epoch)

    def _settled(self, call: Callable[[], Reader]) -> Reader:
        """An answer that begins with throttle time and error code."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = call()
            _, code = answer.take("ih")
            if code != CONCURRENT_TRANSACTIONS or time.monotonic() > deadline:
                check(f"transaction of {self._name}", code)
                return answer
            time.sleep(PAUSE_S)

    def produce(self, topic: str, partition: int, values: Sequence[bytes]) -> int:
        """Add the partition and append; the first offset."""
        self._add_partition(topic, partition)
        first = self._sequences.get((topic, partition), 0)
        self._sequences[topic, partition] = first + len(values)
        records = encode_batch(values, self.producer_id, self.epoch, first, transactional=True)
        self._client.send_produce(topic, partition, records, transactional_id=self._name)
        answer = self._client.receive_produced()
        check("Produce", answer.code)
        return answer.offset

    def _add_partition(self, topic: str, partition: int) -> None:
        wanted = array([string(topic) + array([struct.pack(">i", partition)])])
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._client.call(24, 2, self._id + self._identity + wanted)
            answer.one("i")
            code = _code_of_partition(answer)
            if code != CONCURRENT_TRANSACTIONS or time.monotonic() > deadline:
                return check("AddPartitionsToTxn", code)
            time.sleep(PAUSE_S)

    def commit_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        """As part of the transaction."""
        self._settled(lambda: self._client.call(25, 2, self._id + self._identity + string(group)))
        one = struct.pack(">iqi", partition, offset, -1) + string("")
        body = self._id + string(group) + self._identity + array([string(topic) + array([one])])
        answer = self._client.call(28, 2, body)
        answer.one("i")
        check("TxnOffsetCommit", _code_of_partition(answer))

    def end(self, *, commit: bool) -> None:
        self._settled(lambda: self._client.call(26, 2, self._id + self._identity + struct.pack(">b", commit)))


def _code_of_partition(answer: Reader) -> int:
    """The one partition's of the one topic."""
    codes = []
    for _ in answer.times():
        answer.string()
        codes += [answer.take("ih")[1] for _ in answer.times()]
    (code,) = codes
    return code


def read_committed(client: Connection, topic: str, partition: int, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Every record from an offset on that a committed reader sees just now."""
    while True:
        fetched = client.fetch(topic, partition, offset, committed=True)
        if not fetched.records and offset < fetched.stable_end:  # it is not in memory
            fetched = client.fetch_some(topic, partition, offset, committed=True)
        check("Fetch", fetched.code)
        if not fetched.records:
            return
        for end, records in _committed(fetched):
            yield from ((found, value) for found, value in records if found >= offset)
            offset = max(offset, end)


def _committed(fetched: Fetched) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """The end of each batch, and its records if they are committed, by the answer's list, as consumers do it."""
    data, position = fetched.records, 0
    aborted = sorted((first, producer_id) for producer_id, first in fetched.aborted)
    skipped: set[int] = set()
    while len(data) - position >= BATCH_HEADER.size:
        base, length, _, _, _, attributes, delta, _, _, producer_id, *_ = BATCH_HEADER.unpack_from(data, position)
        end = position + 12 + length
        if end > len(data):
            return
        while aborted and aborted[0][0] <= base + delta:
            skipped.add(aborted.pop(0)[1])
        if attributes & CONTROL:
            skipped.discard(producer_id)
        seen = not attributes & CONTROL and producer_id not in skipped
        yield base + delta + 1, list(decode_batches(data[position:end])) if seen else []
        position = end
