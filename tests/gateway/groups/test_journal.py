"""Changes of groups reach the log in the order of submission, also behind a large record that a thread encodes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.container.container import Container
from core.log.records import Operation
from gateway.groups import journal as journals
from gateway.groups.classic.messages import GroupRecord, MemberRecord
from gateway.groups.persistence import GROUPS_TABLE, NO_EPOCH, CommittedOffset, OffsetKey, decode_group, encode_group
from tests.gateway.groups.harness import RANGE
from tests.gateway.groups.services import Services, run, serving

MEMBER: Final = MemberRecord("m", None, "c", "/127.0.0.1", 10_000, 60_000, RANGE, b"a")
EMPTY: Final = GroupRecord(
    generation=1, state_since_ms=1, protocol_type="consumer", protocol_name=None, leader=None, members=()
)
LARGE: Final = replace(EMPTY, protocol_name="range", leader="m", members=(MEMBER, MEMBER._replace(member_id="n")))
ROUNDS: Final = 40
ENCODED_AT_ONCE: Final = 3


class Encoding:
    """Each large record is encoded when the test says so, by its generation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may: dict[int, threading.Event] = {}
        monkeypatch.setattr(journals, "MEMBERS_AT_ONCE", 1)
        monkeypatch.setattr(journals, "encode_group", self._encode)

    def large(self, generation: int) -> GroupRecord:
        self.may[generation] = threading.Event()
        return replace(LARGE, generation=generation)

    def _encode(self, record: GroupRecord) -> bytes:
        if record.generation in self.may:
            assert self.may[record.generation].wait(10)
        return encode_group(record)


class Records:
    """What was put into the table of groups, in order: generations, and None for a deletion."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generations: list[int | None] = []
        submit = Container.submit

        def noted(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
            for one in operations:
                if isinstance(one, Put | Delete) and one.table == GROUPS_TABLE:
                    self.generations.append(decode_group(one.value).generation if isinstance(one, Put) else None)
            return submit(container, operations)

        monkeypatch.setattr(Container, "submit", noted)


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> Encoding:
    return Encoding(monkeypatch)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    return Records(monkeypatch)


def stored(services: Services) -> bytes | None:
    return services.store.home.table(GROUPS_TABLE).get(b"g")


def test_a_deletion_behind_a_large_record(tmp_path: Path, encoding: Encoding, records: Records) -> None:
    """The group is gone at the end; nobody waits on the loop meanwhile, and the group counts as stored."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            journal = services.groups._journal
            written = journal.write_group("g", encoding.large(1))
            offset = {OffsetKey("g", "t", 0): CommittedOffset(7, NO_EPOCH, "", 1)}
            deleted = journal.write_offsets(offset, without_group="g")
            for _ in range(10):
                await asyncio.sleep(0)
            assert journal.holds_group("g")
            assert not written.done()
            assert not deleted.done()
            encoding.may[1].set()
            assert await asyncio.gather(written, deleted) == [ErrorCode.none] * 2
            assert records.generations == [1, None]
            assert stored(services) is None
            assert services.offsets("g") == {("t", 0): 7}
            assert not journal.holds_group("g")

    run(scenario())


def test_whatever_is_encoded_first(tmp_path: Path, encoding: Encoding, records: Records) -> None:
    """Small and large records in any mixture, some of them cancelled, encoded in any order."""
    chance = random.Random(7)

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            journal = services.groups._journal
            generation = 0
            for _ in range(ROUNDS):
                first = generation + 1
                writes: dict[int, asyncio.Task[ErrorCode]] = {}
                larges: list[int] = []
                for _ in range(chance.randint(2, 6)):
                    generation += 1
                    is_large = len(larges) < ENCODED_AT_ONCE and chance.random() < 0.5
                    record = encoding.large(generation) if is_large else replace(EMPTY, generation=generation)
                    larges += [generation] * is_large
                    writes[generation] = journal.write_group("g", record)
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)
                chance.shuffle(larges)
                cancelled = set()
                for each in larges:
                    if chance.random() < 0.2 and not writes[each].done():
                        writes[each].cancel()
                        cancelled.add(each)
                        await asyncio.sleep(0)
                    encoding.may[each].set()
                    if chance.random() < 0.5:
                        await asyncio.sleep(0.001)
                outcomes = await asyncio.gather(*writes.values(), return_exceptions=True)
                assert {type(one) for one in outcomes} <= {ErrorCode, asyncio.CancelledError}
                expected = [each for each in range(first, generation + 1) if each not in cancelled]
                assert [each for each in records.generations if each is not None and each >= first] == expected
            assert journal._last is None
            assert not journal._groups_in_flight

    run(scenario())


def test_too_large_a_record(tmp_path: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused when it is encoded, as a small one, and what comes behind it is stored."""
    monkeypatch.setattr(journals, "GROUP_BYTES_MAX", len(encode_group(LARGE)) - 1)

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            journal = services.groups._journal
            large, small = encoding.large(2), replace(EMPTY, generation=3)
            encoding.may[2].set()
            writes = [journal.write_group("g", record) for record in (large, small)]
            assert await asyncio.gather(*writes) == [ErrorCode.unknown_server_error, ErrorCode.none]
            assert stored(services) == encode_group(small)

    run(scenario())


def test_long_words_of_few_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What members say of themselves may be a megabyte of each: it is put together in a thread, and not at all where it
    is more than a record may have."""
    threads: list[int] = []

    def noted(record: GroupRecord) -> bytes:
        threads.append(threading.get_ident())
        return encode_group(record)

    def record(generation: int, size: int) -> GroupRecord:
        return replace(LARGE, generation=generation, members=(MEMBER._replace(assignment=bytes(size)),))

    monkeypatch.setattr(journals, "encode_group", noted)

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            sizes = (10, journals.BYTES_AT_ONCE, journals.GROUP_BYTES_MAX, 20)
            journal = services.groups._journal
            writes = [journal.write_group("g", record(number, size)) for number, size in enumerate(sizes)]
            none, too_large = ErrorCode.none, ErrorCode.unknown_server_error
            assert await asyncio.gather(*writes) == [none, none, too_large, none]
            assert sorted(one == threading.get_ident() for one in threads) == [False, True, True]
            assert stored(services) == encode_group(record(3, 20))
            assert not journal._groups_in_flight

    run(scenario())


def test_a_large_group_is_restored(tmp_path: Path) -> None:
    """From a record that is encoded and decoded in threads; its members go on."""
    members = tuple(MEMBER._replace(member_id=f"m{n}") for n in range(journals.MEMBERS_AT_ONCE + 1))
    record = replace(LARGE, leader="m0", members=members)

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            assert await services.groups._journal.write_group("g", record) is ErrorCode.none
        async with serving(tmp_path) as services:
            group = services.groups.get("g")
            assert group is not None
            assert group.member_count == len(members)
            assert services.groups.heartbeat("g", "m7", None, record.generation) is ErrorCode.none

    run(scenario())
