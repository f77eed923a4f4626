"""A crash before every write of the log, in the life of transactions over four containers.

The coordinator has its home in one container, partitions lie there and in two others, the group of the offsets has its
home in the fourth. At each write of any of the four logs the directory is copied as `kill -9` would leave it; each copy
is started like any other data directory.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from core.clock import ManualClock
from core.store import Store
from gateway.transactions.persistence import TRANSACTIONS_TABLE, decode_transaction
from gateway.transactions.transaction import Identity, TransactionState
from tests.core.support import KIB, before_syncs, until
from tests.gateway.transactions.services import TIMEOUT_MS, Services, run, serving

pytestmark = pytest.mark.slow

CONTAINERS: Final = (0, 1, 2, 3)
GROUPS_HOME: Final = 3
SMALL: Final[dict[str, Any]] = {"log_file_bytes": 64 * KIB, "checkpoint_interval_ms": 3_600_000}
PLACES: Final = ("t", "u", "v")  # topics, in containers 0, 1 and 2


@dataclass(frozen=True)
class Told:
    """What the producer has been told of one transaction."""

    values: dict[str, bytes]  # by topic; acknowledged
    offset: int | None = None  # acknowledged
    asked: bool | None = None  # to commit, or to abort
    is_ended: bool = False  # acknowledged


@dataclass
class Crash:
    """A copy of the directory, and what was known when it was made."""

    directory: Path
    told: list[Told]
    doing: str


@dataclass
class Life:
    """One producer, from its first transaction to its last."""

    services: Services
    version: int
    commits: bool
    told: list[Told] = field(default_factory=list)
    doing: str = ""

    @property
    def bumps(self) -> bool:
        return self.version >= 12

    async def run(self, who: Identity) -> None:
        who = await self.transaction(who, PLACES, offset=7, committed=self.commits)
        await self.transaction(who, ("v", "u"), offset=8, committed=not self.commits)

    async def transaction(self, who: Identity, topics: tuple[str, ...], offset: int, *, committed: bool) -> Identity:
        services, number = self.services, len(self.told)
        self.told.append(Told({}))
        for topic in topics:
            value = f"{number} {topic}".encode()
            if not self.bumps:
                self.doing = "add"
                await services.transactions.add(services.name, who, [services.place(topic)])
            self.doing = "write"
            sequence = number if not self.bumps and topic != "t" else 0
            await services.write(who, topic, value, version=self.version, sequence=sequence)
            self.tell(values={**self.told[-1].values, topic: value})
        self.doing = "offset"
        await services.commit_offset(who, offset, group=services.name_in(GROUPS_HOME, "g"))
        self.tell(offset=offset)
        self.doing = "end"
        self.tell(asked=committed)
        following = await services.end(who, committed=committed, bumps=self.bumps)
        self.tell(is_ended=True)
        await until(lambda: services.known().state.name.startswith("COMPLETE"))
        await services.store.home.all_durable()
        return following

    def tell(self, **known: object) -> None:
        self.told[-1] = Told(**{**vars(self.told[-1]), **known})  # type: ignore[arg-type]


@contextmanager
def copies(life: Life, store: Path, place: Path) -> Iterator[list[Crash]]:
    """Copy the directory before each write of a log; no log is written to meanwhile."""
    crashes: list[Crash] = []
    one_at_a_time = threading.Lock()

    def copy(fd: int) -> None:
        with one_at_a_time:
            crash = Crash(place / str(len(crashes)), list(life.told), life.doing)
            shutil.copytree(store, crash.directory)
            crashes.append(crash)

    with pytest.MonkeyPatch.context() as patch:
        before_syncs(patch, copy)
        yield crashes


@pytest.mark.parametrize(
    ("version", "commits"),
    [
        (12, True),
        (11, False),
        pytest.param(12, False, marks=pytest.mark.slow),
        pytest.param(11, True, marks=pytest.mark.slow),
    ],
)
def test_at_every_write(tmp_path: Path, version: int, commits: bool) -> None:
    """All or nothing of each transaction: records in all containers, offsets, and what its producer was told."""
    met: set[tuple[str, str, bool]] = set()

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path / "store", clock=clock, clean=False, containers=CONTAINERS, **SMALL) as services:
            await services.create("t")
            await services.create_elsewhere("u", 1_001, 1)
            await services.create_elsewhere("v", 1_002, 2)
            life = Life(services, version, commits)
            who = await services.init()
            with copies(life, tmp_path / "store", tmp_path / "copies") as crashes:
                await life.run(who)
            crashes.append(Crash(tmp_path / "store", life.told, life.doing))
        for crash in crashes:
            found: list[tuple[str, str, bool]] = []
            async with serving(
                crash.directory,
                clock=ManualClock(),
                containers=CONTAINERS,
                **SMALL,
                before=lambda store, crash=crash, found=found: found.append(state_of(store, crash)),  # type: ignore[misc]
            ) as services:
                await check(services, who, crash)
            met.update(found)
            shutil.rmtree(crash.directory)

    run(scenario())
    # What the table of crashes names: before the outcome, with and without batches elsewhere; after it, with markers
    # everywhere, in a part, or nowhere; complete.
    outcome = "PREPARE_COMMIT" if commits else "PREPARE_ABORT"
    states = {(state, is_open) for _, state, is_open in met}
    assert states >= {("ONGOING", False), ("ONGOING", True), (outcome, True), (outcome, False)}
    assert {state for _, state, _ in met} >= {"COMPLETE_COMMIT", "COMPLETE_ABORT"}
    assert {doing for doing, _, _ in met} == {"write", "offset", "end"} | ({"add"} if version < 12 else set())


def state_of(store: Store, crash: Crash) -> tuple[str, str, bool]:
    """As the crash left it: the coordinator's row, and whether a partition has the transaction open."""
    (row,) = store.containers[0].container.table(TRANSACTIONS_TABLE).items()
    open_slots = [
        slot for stream in store.streams for slot in stream.written_slots() if slot.stable_end < slot.durable_end
    ]
    return crash.doing, decode_transaction(*row).state.name, bool(open_slots)


async def check(services: Services, who: Identity, crash: Crash) -> None:
    state = services.known().state
    assert not state.name.startswith("PREPARE"), "the start completes what was chosen"
    services.clock.advance(TIMEOUT_MS / 1_000)
    await services.abort_overdue()
    await until(lambda: not services.known().state.name.startswith("PREPARE"))
    slots = [services.slot(topic) for topic in PLACES]
    assert all(slot.stable_end == slot.durable_end for slot in slots), "a transaction hangs"
    group = services.name_in(GROUPS_HOME, "g")
    assert not services.is_unstable(group)
    visible = {value for topic in PLACES for value in await services.committed(topic)}
    offset = services.offset(group)
    for number, told in enumerate(crash.told):
        seen = {value for value in visible if value.startswith(b"%d " % number)}
        written = set(told.values.values())
        if told.asked is not True:
            assert not seen, f"{crash.doing}: nobody has committed {seen}"
            assert offset != (7, 8)[number]
        else:
            assert seen in ({*written}, *([] if told.is_ended else [set()])), f"{crash.doing}: {seen} of {written}"
            assert (offset == (7, 8)[number]) == bool(seen)
    if state is TransactionState.ONGOING:
        assert services.known().state is TransactionState.COMPLETE_ABORT
    again = await services.init()  # and the next producer goes on
    assert again.epoch > who.epoch or again.producer_id != who.producer_id
    await services.write(again, "u", b"later")
    await services.end(again)
    await until(lambda: services.slot("u").stable_end == services.slot("u").durable_end)
    assert (await services.committed("u"))[-1] == b"later"
