"""Random histories of the coordinator on a real store: producers that share ids, time-outs, crashes in the middle."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.errors import StaleWriterEpoch
from gateway.refusals import Refusal
from gateway.transactions.transaction import Identity
from tests.core.support import owner_of
from tests.gateway.transactions.services import ELSEWHERE, TIMEOUT_MS, Services, run, serving

pytestmark = pytest.mark.slow

LIVES = 4
PRODUCERS = (("x", True), ("x", True), ("y", False))
"""Transactional id, and whether with a new epoch for each transaction. Two fight for the same id."""
PLACES = (("t", 0), ("t", 1), ("u", 0), ("u", 1))


class Gone(Exception):
    """A producer went away in the middle of a transaction."""


class History:
    """The clients' knowledge in the end."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.tags = 0
        self.written: dict[int, set[bytes]] = {}
        self.asked: set[int] = set()  # to commit
        self.committed: set[int] = set()  # acknowledged
        self.ends_at = 0  # tags at which this life ends
        self.is_over = asyncio.Event()

    async def produce(self, services: Services, name: str, bumps: bool, group: str) -> None:
        """One producer, until its process ends."""
        before: Identity | None = None
        while True:
            try:
                who = await services.init(name, before)
                sequences = dict.fromkeys(PLACES, 0)
                while True:
                    before = who
                    who = await self.transaction(services, name, who, bumps, group, sequences)
                    if who != before:
                        sequences = dict.fromkeys(PLACES, 0)
            except Gone:
                before = self.rng.choice([None, before])  # it comes back as another one, or says who it was
            except (Refusal, StaleWriterEpoch):
                before = None  # fenced, or in the middle of another's end
            for _ in range(self.rng.randint(0, 20)):
                await services.store.home.all_durable()
                await asyncio.sleep(0)

    async def transaction(
        self,
        services: Services,
        name: str,
        who: Identity,
        bumps: bool,
        group: str,
        sequences: dict[tuple[str, int], int],
    ) -> Identity:
        self.tags += 1
        tag = self.tags
        if tag >= self.ends_at:
            self.is_over.set()
        self.written[tag] = set()
        for number in range(self.rng.randint(1, 4)):
            where = self.rng.choice(PLACES)
            value = b"%d %d" % (tag, number)
            await self.write(services, name, who, where, value, sequences)
            self.written[tag].add(value)
        if self.rng.random() < 0.5:
            await services.commit_offset(who, tag, name=name, group=group)
        if self.rng.random() < 0.1:
            raise Gone
        is_commit = self.rng.random() < 0.7
        if is_commit:
            self.asked.add(tag)
        following = await services.end(who, name=name, committed=is_commit, bumps=bumps)
        if is_commit:
            self.committed.add(tag)
        return following

    async def write(
        self,
        services: Services,
        name: str,
        who: Identity,
        where: tuple[str, int],
        value: bytes,
        sequences: dict[tuple[str, int], int],
    ) -> None:
        topic, partition = where
        sequence = sequences[where]
        await services.begin_to_write(who, topic, value, name=name, partition=partition, sequence=sequence)
        sequences[where] += 1
        await owner_of(services.slot(*where)).all_durable()

    async def time_out(self, services: Services) -> None:
        """Now and then everything that is open takes too long."""
        while True:
            for _ in range(self.rng.randint(20, 100)):
                await services.store.home.all_durable()
                await asyncio.sleep(0)
            services.clock.advance(TIMEOUT_MS / 1_000)
            await services.abort_overdue()

    async def live(self, directory: Path, clock: ManualClock, *, first: bool) -> None:
        async with serving(directory, clock=clock, clean=False, containers=(0, ELSEWHERE)) as services:
            if first:
                await services.create("t")
                await services.create_elsewhere("u")
            self.ends_at, self.is_over = self.tags + self.rng.randint(10, 60), asyncio.Event()
            running = [
                self.produce(services, name, bumps, f"g{number}") for number, (name, bumps) in enumerate(PRODUCERS)
            ]
            working = asyncio.gather(*running, self.time_out(services))
            over = asyncio.ensure_future(self.is_over.wait())
            await asyncio.wait((working, over), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def check(self, directory: Path, clock: ManualClock) -> None:
        async with serving(directory, clock=clock, containers=(0, ELSEWHERE)) as services:
            clock.advance(TIMEOUT_MS / 1_000)
            await services.abort_overdue()
            visible: set[bytes] = set()
            for where in PLACES:
                slot, values = services.slot(*where), await services.committed(*where)
                assert slot.stable_end == slot.durable_end, "a transaction hangs"
                assert len(values) == len(set(values))
                visible |= set(values)
            for tag, written in self.written.items():
                seen = {value for value in visible if value.startswith(b"%d " % tag)}
                if tag not in self.asked:
                    assert not seen
                elif tag in self.committed:
                    assert seen == written
                else:
                    assert seen in (set(), written)
            for number in range(len(PRODUCERS)):
                group = f"g{number}"
                assert not services.is_unstable(group)
                offset = services.offset(group)
                assert offset is None or (offset in self.asked and self.is_visible(offset, visible))

    def is_visible(self, tag: int, visible: set[bytes]) -> bool:
        return self.written[tag] <= visible


async def history(directory: Path, seed: int) -> None:
    recorded, clock = History(seed), ManualClock()
    for life in range(LIVES):
        await recorded.live(directory, clock, first=life == 0)
    await recorded.check(directory, clock)
    assert recorded.committed


@pytest.mark.parametrize("seed", range(3))
def test_histories(tmp_path: Path, seed: int) -> None:
    """Over several crashes: all or nothing of each transaction with its offsets, and nothing hangs in the end."""
    run(history(tmp_path, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_more_histories(tmp_path: Path, seed: int) -> None:
    """The same, more often."""
    run(history(tmp_path, seed))
