"""The table of scenarios: each states one behaviour that clients rely on, and says what it needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from compat_tests.harness.client import Client
from compat_tests.harness.records import Record, Refused, Stored
from compat_tests.harness.system import System
from compat_tests.harness.waiting import until

CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")

# Kafka's error numbers, as scenarios name them.
OFFSET_OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
MESSAGE_TOO_LARGE: Final = 10
INVALID_TOPIC: Final = 17
INVALID_TIMESTAMP: Final = 32
TOPIC_ALREADY_EXISTS: Final = 36
INVALID_PARTITIONS: Final = 37
INVALID_CONFIG: Final = 40
INVALID_PRODUCER_EPOCH: Final = 47
INVALID_TRANSACTION_TIMEOUT: Final = 50
NON_EMPTY_GROUP: Final = 68
GROUP_ID_NOT_FOUND: Final = 69
FENCED_INSTANCE_ID: Final = 82
GROUP_SUBSCRIBED_TO_TOPIC: Final = 86
INVALID_RECORD: Final = 87
PRODUCER_FENCED: Final = 90


@dataclass
class World:
    """The tools of one run of a scenario; names are its own, the server is shared."""

    system: System
    client: Client
    fellow: Callable[[int], Client]  # further processes of the same library, kept for the whole run
    directory: Path
    prefix: str
    cleanup: ExitStack = field(default_factory=ExitStack)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def name(self, what: str) -> str:
        return f"{self.prefix}-{what}-{next(self._numbers)}"

    def topic(self, partitions: int = 1, configs: dict[str, str] | None = None) -> str:
        """A new topic, once the server's metadata shows it."""
        name = self.name("topic")
        self.client.create_topic(name, partitions, configs)
        self.await_partitions(name, partitions)
        return name

    def vague(self, code: int) -> tuple[int | None, ...]:
        """The number that the server sends, and what a library shows that does not know it."""
        return (code,) if self.client.can("newest errors") else (code, -1, None)

    def await_partitions(self, topic: str, count: int) -> None:
        def shown() -> bool:
            try:
                return self.client.partition_count(topic) == count
            except Refused as refusal:
                if refusal.code == UNKNOWN_TOPIC_OR_PARTITION:
                    return False
                raise

        until(shown, within_s=30, what=f"{topic} shows {count} partitions")

    def another_process(self) -> Client:
        """A second process of the same library, ended with the scenario."""
        number = next(self._numbers)
        path = self.directory / f"{self.client.name}-{number}.log"
        client = Client(self.client.name, self.system.address, path)
        self.cleanup.callback(client.agent.end)
        return client


Run = Callable[[World], None]


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Run
    needs: frozenset[str]
    server: frozenset[str]


TABLE: Final[list[Scenario]] = []


def scenario(*needs: str, server: tuple[str, ...] = ()) -> Callable[[Run], Run]:
    """Enter a function into the table; `needs` are a client's abilities, `server` what is done to it."""

    def enter(run: Run) -> Run:
        enter_as(run.__name__.replace("_", " "), run, *needs, server=server)
        return run

    return enter


def enter_as(name: str, run: Run, *needs: str, server: tuple[str, ...] = ()) -> None:
    TABLE.append(Scenario(name, run, frozenset(needs), frozenset(server)))


def numbered(count: int, *, start: int = 0, size: int = 0, partition: int = 0) -> list[Record]:
    """Records whose value is their number, padded to a size if one is given."""
    return [
        Record(value=str(number).encode().ljust(size, b"."), partition=partition)
        for number in range(start, start + count)
    ]


def values(records: list[Stored]) -> list[bytes | None]:
    return [record.value for record in records]


def offsets(records: list[Stored]) -> list[int]:
    return [record.offset for record in records]


def assert_log(records: list[Stored], expected: list[Record], *, start: int = 0) -> None:
    """One partition's records: exactly these values, in order, at dense offsets."""
    assert values(records) == [record.value for record in expected]
    assert offsets(records) == list(range(start, start + len(expected)))


@contextmanager
def refused(*codes: int | None) -> Iterator[None]:
    """Expect a refusal that carries one of these error numbers; None where the library made its own."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code in codes, str(caught.value)
