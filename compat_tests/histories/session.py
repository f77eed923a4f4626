"""One incarnation of a transactional producer (librdkafka), which writes down all that it does.

Keeps: a transaction whose commit was never asked for is recorded as failed; once it was asked for, only a clear answer
makes it ok or failed, and everything else is info.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition

from compat_tests.histories.history import History, Opened, Phase, Place, Read, Send, Transact

CALL_S: Final = 5.0
OPEN_TRIES_MAX: Final = 30
END_TRIES_MAX: Final = 12
DELIVERED_WITHIN_S: Final = 15.0
HANGS_AFTER_S: Final = 8.0
TRANSACTION_TIMEOUT_MS: Final = 20_000

SILENT: Final = logging.getLogger("compat_tests.histories.librdkafka")
SILENT.disabled = True

CONNECTION: Final[dict[str, Any]] = {
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 200,
    "log_level": 0,
    "logger": SILENT,  # being fenced is an emergency to librdkafka, and daily work here
    "error_cb": lambda error: None,  # what matters comes with the call that fails
}


class Broken(Exception):
    """This incarnation can do nothing more; the next one has to take over."""


class Hanging(Exception):
    """librdkafka did not come back."""


def unless_it_hangs(call: Callable[[], object]) -> None:
    """librdkafka 2.16 may wait for ever, whatever its time-out, when the connection to a group's coordinator breaks."""
    answers: queue.Queue[Exception | None] = queue.Queue()

    def make() -> None:
        try:
            call()
            answers.put(None)
        except Exception as error:
            answers.put(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        error = answers.get(timeout=HANGS_AFTER_S)
    except queue.Empty:
        raise Hanging from None
    if error is not None:
        raise error


class Session:
    def __init__(
        self, address: str, identity: str, incarnation: int, history: History, stored: Callable[[Place, int], None]
    ) -> None:
        """`stored` hears the place and the offset of each record that the server has acknowledged."""
        self.process = f"{identity}/{incarnation}"
        self._identity, self._incarnation, self._history = identity, incarnation, history
        self._stored = stored
        self._values = 0
        self._sends: list[Send] = []
        self._reads: list[Read] = []
        self._undelivered = 0
        self._is_open = False
        self.producer = confluent_kafka.Producer(
            {
                **CONNECTION,
                "bootstrap.servers": address,
                "transactional.id": identity,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 1,
            }
        )

    def open(self) -> None:
        what = Opened(self._identity, self._incarnation)
        self._history.record(self.process, "invoke", what)
        for _ in range(OPEN_TRIES_MAX):
            try:
                self.producer.init_transactions(CALL_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise Broken(str(error)) from error
            else:
                self._history.record(self.process, "ok", what)
                return
        raise AssertionError(f"{self.process} could not open in {OPEN_TRIES_MAX * CALL_S} s")

    def _record(self, phase: Phase) -> None:
        part = Transact(self._identity, self._incarnation, tuple(self._sends), tuple(self._reads))
        self._history.record(self.process, phase, part)
        self._is_open = phase in ("invoke", "commit")

    def begin(self) -> None:
        self._sends, self._reads, self._undelivered = [], [], 0
        self._record("invoke")
        try:
            self.producer.begin_transaction()
        except KafkaException as error:
            raise self._failed(error) from error

    def send(self, place: Place, source: str | None = None, value: str | None = None) -> None:
        """A value of its own making, unless one is given."""
        self._values += 1
        number = len(self._sends)
        send = Send(place, value or f"{self.process}/{self._values}", None, source)
        self._sends.append(send)
        self._undelivered += 1
        try:
            self.producer.produce(
                place[0],
                send.value.encode(),
                partition=place[1],
                on_delivery=lambda error, message: self._delivered(self._sends, number, error, message),
            )
            self.producer.poll(0)
        except (KafkaException, BufferError) as error:
            raise self._failed(error) from error

    def _delivered(self, sends: list[Send], number: int, error: Any, message: Any) -> None:
        if sends is not self._sends:
            return  # of a transaction that has ended
        self._undelivered -= 1
        if error is None and message.offset() is not None:
            sent = sends[number]
            sends[number] = Send(sent.place, sent.value, message.offset(), sent.source)
            self._stored(sent.place, message.offset())

    def read(self, reads: Iterable[Read]) -> None:
        self._reads += reads

    def send_offsets(self, positions: dict[Place, int], member: Any) -> None:
        places = [TopicPartition(*place, offset) for place, offset in positions.items()]
        for tries in range(1, END_TRIES_MAX + 1):
            try:
                unless_it_hangs(lambda: self.producer.send_offsets_to_transaction(places, member, CALL_S))
                return
            except Hanging as error:
                self.abandon()
                raise Broken(f"{self.process} hangs") from error
            except KafkaException as error:
                if not error.args[0].retriable() or tries == END_TRIES_MAX:
                    raise self._failed(error) from error

    def await_delivery(self) -> None:
        deadline = time.monotonic() + DELIVERED_WITHIN_S
        while self._undelivered and time.monotonic() < deadline:
            try:
                self.producer.poll(0.05)
            except KafkaException as error:
                raise self._failed(error) from error

    def _failed(self, error: Exception) -> Broken:
        """Before the commit was asked for: abort if that is possible, and be succeeded in any case."""
        with contextlib.suppress(KafkaException):
            self.producer.abort_transaction(CALL_S)
        self._record("fail")
        return Broken(f"{self.process}: {error}")

    def commit(self) -> Phase:
        self._record("commit")
        outcome = self._ask_for_commit()
        self._record(outcome)
        return outcome

    def _ask_for_commit(self) -> Phase:
        for _ in range(END_TRIES_MAX):
            try:
                self.producer.commit_transaction(CALL_S)
                return "ok"
            except KafkaException as error:
                if error.args[0].txn_requires_abort():
                    return "fail" if self._aborted() else "info"
                if not error.args[0].retriable():
                    return "info"
        return "info"

    def abort(self) -> bool:
        """Whether this incarnation can go on."""
        aborted = self._aborted()
        self._record("fail")
        return aborted

    def _aborted(self) -> bool:
        for _ in range(END_TRIES_MAX):
            try:
                self.producer.abort_transaction(CALL_S)
                return True
            except KafkaException as error:
                if not error.args[0].retriable():
                    return False
        return False

    def settle(self) -> None:
        """The end of a hanging transaction is unknown, but the records that it has sent are known."""
        if self._is_open:
            self._record("info")

    def abandon(self) -> None:
        """As a crash does: nothing is ended."""
        self._record("fail")
