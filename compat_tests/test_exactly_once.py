"""Programs that promise "exactly once", killed in the middle: a loop of Java's clients, and Kafka Streams.

Each runs as a process of its own, is killed with SIGKILL while it has a transaction open, and started again.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from compat_tests.harness.client import Client, Consumer
from compat_tests.harness.records import Record, Stored
from compat_tests.harness.system import System, java_command
from compat_tests.harness.waiting import until

PARTITIONS: Final = 3
RECORDS: Final = 1_500
STOPS: Final = (300, 450)  # records after which a process stops inside a transaction, and is killed
WORDS: Final = [f"word-{number}" for number in range(25)]
WITHIN_S: Final = 60
END_WITHIN_S: Final = 30
_NUMBERS: Final = itertools.count(1)


class Programs:
    """Java programs of this test; none outlives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[subprocess.Popen[str]] = []

    def start(self, main: str, *arguments: str) -> subprocess.Popen[str]:
        with (self._directory / "program.log").open("ab") as log:
            program = subprocess.Popen(
                [*java_command(f"penstock.compat.{main}"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._running.append(program)
        return program

    def end(self) -> None:
        for program in self._running:
            program.kill()
            program.wait()

    def log(self) -> str:
        return (self._directory / "program.log").read_text(errors="replace")[-4_000:]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.end()


@pytest.fixture
def name() -> str:
    return f"exactly-once-{next(_NUMBERS)}"


def take(consumer: Consumer, count: int, program: subprocess.Popen[str], programs: Programs) -> list[Stored]:
    """At least that many records; the program that writes them must stay alive."""
    taken: list[Stored] = []

    def enough() -> bool:
        assert program.poll() is None, programs.log()
        taken.extend(consumer.poll(200))
        return len(taken) >= count

    try:
        until(enough, within_s=WITHIN_S, what=f"{count} records", every_s=0)
    except AssertionError as late:
        raise AssertionError(f"{late}; {len(taken)} came\n{programs.log()}") from None
    return taken


def test_consume_transform_produce(java: Client, system: System, programs: Programs, name: str) -> None:
    """Killed twice with a transaction open, the loop has copied each record once and in order when it is done."""
    source, target = f"{name}-source", f"{name}-target"
    for topic in (source, target):
        java.create_topic(topic, PARTITIONS)
    sent = [Record(value=b"%d" % number, partition=number % PARTITIONS) for number in range(RECORDS)]
    java.write(source, *sent)
    arguments = (system.address, source, target, f"{name}-group", f"{name}-id")

    for stop in STOPS:
        program = programs.start("ExactlyOnce", *arguments, str(stop))
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n", programs.log()
        program.kill()
        program.wait()
    program = programs.start("ExactlyOnce", *arguments, "-1")
    consumer = java.reader(target, PARTITIONS, isolation="read_committed")
    received = take(consumer, RECORDS, program, programs)
    consumer.close()

    for partition in range(PARTITIONS):
        copied = [record.value for record in received if record.partition == partition]
        assert copied == [record.value for record in sent if record.partition == partition]
    uncommitted = java.reader(target, PARTITIONS)
    assert len(take(uncommitted, RECORDS + 2, program, programs)) > RECORDS  # what the killed ones left behind
    uncommitted.close()


def test_kafka_streams(java: Client, system: System, programs: Programs, name: str, tmp_path: Path) -> None:
    """A stateful count with exactly_once_v2, killed once, ended once: each word is counted 1, 2, 3, without a gap."""
    source, target = f"{name}-words", f"{name}-counts"
    for topic in (source, target):
        java.create_topic(topic, PARTITIONS)
    dice = random.Random(7)
    words = [dice.choice(WORDS) for _ in range(RECORDS)]
    producer = java.producer()
    consumer = java.reader(target, PARTITIONS, isolation="read_committed")
    arguments = ("StreamsCount", system.address, f"{name}-app", source, target, str(tmp_path / "state"))
    received: list[Stored] = []

    def feed(part: list[str], wait_for: int) -> None:
        producer.send(source, *(Record(value=word.encode()) for word in part))
        received.extend(take(consumer, wait_for - len(received), program, programs))

    third = RECORDS // 3
    program = programs.start(*arguments)
    feed(words[:third], third // 2)
    program.kill()
    program.wait()
    program = programs.start(*arguments)
    feed(words[third : 2 * third], 2 * third)
    program.send_signal(signal.SIGTERM)
    program.wait(END_WITHIN_S)
    program = programs.start(*arguments)
    feed(words[2 * third :], RECORDS)
    producer.close()
    consumer.close()

    counted: dict[bytes | None, list[int]] = {}
    for record in received:
        counted.setdefault(record.key, []).append(int(record.value or b"0"))
    assert counted == {word.encode(): list(range(1, n + 1)) for word, n in Counter(words).items()}
