"""One worker process: `python -m gateway.bench.worker`, controlled by lines of JSON.

In: the role and the plan; `{"start_ns": N}`; to readers also `{"ends": {PARTITION: OFFSET}}`. Out: `{"ready": true}`,
then a report each half second, the last one with `"done": true`. Keeps: a worker whose coordinator is gone ends.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from gateway.bench import clients
from gateway.bench.plan import STAMP_BYTES, Plan, partitions_of
from gateway.bench.schedule import SECOND_NS, Schedule
from gateway.bench.tally import Tally

REPORT_NS: Final = SECOND_NS // 2
BATCH: Final = 32
"""Records handed over between two looks at the clock."""
POLL_S: Final = 0.01
GLANCE_S: Final = 0.001
DRAIN_SECONDS_MAX: Final = 60
POOL_BYTES: Final = 1 << 20
"""Random letters from which values are cut: they neither repeat in a batch nor compress to nothing."""


class Inbox:
    """The coordinator's lines."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(json.loads(line))
        os._exit(1)

    def next(self) -> dict[str, Any]:
        return self._lines.get()

    def maybe(self) -> dict[str, Any] | None:
        return None if self._lines.empty() else self._lines.get()


class Outbox:
    """Reports, at most one each half second."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._next_ns = time.monotonic_ns() + REPORT_NS

    def tick(self, now_ns: int) -> None:
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + REPORT_NS
            say(self._tally.take())

    def done(self) -> None:
        say({**self._tally.take(), "done": True})


def main() -> int:
    inbox = Inbox()
    task = inbox.next()
    plan = Plan(**task["plan"])
    work = _write if task["role"] == "write" else _read
    work(plan, task, inbox)
    sys.stdout.flush()
    os._exit(0)  # a client's own shutdown may take seconds, and all its records are counted by now


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _write(plan: Plan, task: dict[str, Any], inbox: Inbox) -> None:
    module = clients.load(plan.client)
    writers = [module.writer(plan, f"{task['name']}-{number}") for number in range(plan.writers)]
    say({"ready": True})
    schedule = Schedule(
        start_ns=inbox.next()["start_ns"],
        warmup_s=plan.warmup,
        seconds=plan.seconds,
        records=plan.records,
        rate=plan.rate,
    )
    tally = Tally(schedule.measured_from_ns)
    outbox = Outbox(tally)
    senders = [_Sender(plan, writer, tally) for writer in writers]
    _send_all(senders, schedule, outbox)
    _drain(senders, tally, outbox)
    outbox.done()


def _send_all(senders: list[_Sender], schedule: Schedule, outbox: Outbox) -> None:
    turns = itertools.cycle(senders)
    while (due_ns := schedule.next_due_ns(now_ns := time.monotonic_ns())) is not None:
        if due_ns > now_ns:
            _wait(senders, min((due_ns - now_ns) / SECOND_NS, POLL_S))
        else:
            next(turns).send(schedule.take(now_ns, BATCH))
            for sender in senders:
                sender.writer.poll(0)
        outbox.tick(now_ns)


def _wait(senders: list[_Sender], seconds: float) -> None:
    """Serve acknowledgements. With several clients, waiting for one would hold up the others."""
    if len(senders) == 1:
        senders[0].writer.poll(seconds)
        return
    for sender in senders:
        sender.writer.poll(0)
    time.sleep(min(seconds, GLANCE_S))


def _drain(senders: list[_Sender], tally: Tally, outbox: Outbox) -> None:
    """Wait for the records in flight; a record without an acknowledgement is an error."""
    deadline_ns = time.monotonic_ns() + DRAIN_SECONDS_MAX * SECOND_NS
    for sender in senders:
        sender.end()
        while sender.writer.outstanding() and (now_ns := time.monotonic_ns()) < deadline_ns:
            sender.writer.poll(POLL_S)
            outbox.tick(now_ns)
        if left := sender.writer.outstanding():
            tally.fail(f"no answer within {DRAIN_SECONDS_MAX} s", left)


class _Sender:
    """One producer with the contents of its records and its transactions."""

    def __init__(self, plan: Plan, writer: clients.Writer, tally: Tally) -> None:
        self.writer = writer
        self._size = plan.size
        self._finished = tally.finished
        self._stamped = plan.stamped
        self._values = _values(plan.size - (STAMP_BYTES if plan.stamped else 0))
        self._keys = [b"key-%d" % number for number in range(plan.keys)]
        self._per_transaction = plan.transactions
        self._sent = 0

    def send(self, dues_ns: list[int]) -> None:
        """Send a record for each of these due times."""
        send, finished, values, size = self.writer.send, self._finished, self._values, self._size
        for due_ns in dues_ns:
            if self._per_transaction and self._sent % self._per_transaction == 0:
                self.end()
                self.writer.begin()
            value = next(values)
            if self._stamped:
                value = due_ns.to_bytes(STAMP_BYTES, "big") + value
            key = self._keys[self._sent % len(self._keys)] if self._keys else None
            self._sent += 1
            send(value, key, partial(finished, due_ns, size))

    def end(self) -> None:
        if self._per_transaction and self._sent:
            self.writer.commit()


def _values(size: int) -> Iterator[bytes]:
    pool = random.Random(size).randbytes(max(POOL_BYTES, 2 * size) // 2).hex().encode()
    places = [place * 61 % (len(pool) - size) for place in range(len(pool) // 61)]
    while True:
        for place in places:
            yield pool[place : place + size]


def _read(plan: Plan, task: dict[str, Any], inbox: Inbox) -> None:
    module = clients.load(plan.client)
    offsets = {int(partition): offset for partition, offset in task["offsets"].items()}
    readers = []
    for number in range(plan.first_reader, plan.first_reader + plan.readers):
        mine = partitions_of(number, task["readers"], plan.partitions)
        readers.append(module.reader(plan, mine, offsets))
    if plan.stamped:
        for reader in readers:
            reader.take(0)
    say({"ready": True})
    measured_from_ns = inbox.next()["start_ns"] + int(plan.warmup * SECOND_NS)
    if plan.stamped:
        _follow(readers, inbox, Tally(measured_from_ns))
    else:
        _warm_up(readers, measured_from_ns)
        ends = {int(partition): offset for partition, offset in task["ends"].items()}
        until_ns = measured_from_ns + int(plan.seconds * SECOND_NS) if plan.records is None else None
        _read_once(readers, ends, Tally(measured_from_ns), until_ns, plan.records)


def _follow(readers: list[clients.Reader], inbox: Inbox, tally: Tally) -> None:
    """Read the writers' records until the writers have ended; each record's stamp gives its latency."""
    outbox = Outbox(tally)
    ends: dict[int, int] | None = None
    deadline_ns = 0
    wait_s = POLL_S if len(readers) == 1 else GLANCE_S
    while True:
        now_ns = time.monotonic_ns()
        outbox.tick(now_ns)
        for reader in readers:
            for value in reader.take(wait_s):
                tally.finished(int.from_bytes(value[:STAMP_BYTES], "big"), len(value), None)
        if ends is None and (line := inbox.maybe()) is not None:
            ends = {int(partition): offset for partition, offset in line["ends"].items()}
            deadline_ns = now_ns + DRAIN_SECONDS_MAX * SECOND_NS
        if ends is not None:
            left = sum(_missing(reader, ends) for reader in readers)
            if not left or now_ns > deadline_ns:
                break
    if left:
        tally.fail(f"not read within {DRAIN_SECONDS_MAX} s after the last write", left)
    outbox.done()


def _missing(reader: clients.Reader, ends: dict[int, int]) -> int:
    return sum(max(0, ends[partition] - position) for partition, position in reader.positions().items())


def _warm_up(readers: list[clients.Reader], until_ns: int) -> None:
    """Read, then go back to the first offset of the measured reading."""
    while time.monotonic_ns() < until_ns:
        for reader in readers:
            reader.take(POLL_S)
    for reader in readers:
        reader.rewind()


def _read_once(
    readers: list[clients.Reader], ends: dict[int, int], tally: Tally, until_ns: int | None, records: int | None
) -> None:
    outbox = Outbox(tally)
    left = dict.fromkeys(range(len(readers)), records)
    while left and (until_ns is None or time.monotonic_ns() < until_ns):
        for number in list(left):
            reader, wanted = readers[number], left[number]
            asked_ns = time.monotonic_ns()
            values = reader.take(POLL_S if len(readers) == 1 else GLANCE_S)
            now_ns = time.monotonic_ns()
            if wanted is not None:
                values = values[:wanted]
                left[number] = wanted - len(values)
            if values:
                tally.took(now_ns - asked_ns, len(values), sum(map(len, values)))
            if left[number] == 0 or not _missing(reader, ends):
                del left[number]
            outbox.tick(now_ns)
    outbox.done()


if __name__ == "__main__":
    sys.exit(main())
