"""Producer ids are never given twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.transactions.producer_ids import BLOCK_IDS, ProducerIds
from tests.gateway.apis.harness import Admin, admin_of


def init(
    admin: Admin, version: int = 5, transactional_id: str | None = None, producer_id: int = -1, epoch: int = -1
) -> tuple[int, int, int]:
    answer = admin.ask(
        "InitProducerId",
        version,
        transactional_id=transactional_id,
        transaction_timeout=60_000,
        producer_id=producer_id,
        producer_epoch=epoch,
    )
    return answer.error_code, answer.producer_id, answer.producer_epoch


@pytest.mark.parametrize("version", range(6))
def test_new_ids(admin: Admin, version: int) -> None:
    """Every producer gets an id of its own with epoch 0, in every version."""
    answers = [init(admin, version) for _ in range(3)]

    assert {(0, 0)} == {(code, epoch) for code, _, epoch in answers}
    assert len({producer_id for _, producer_id, _ in answers}) == 3


def test_former_ids(admin: Admin) -> None:
    """A producer that names its former id gets a new one, as from Kafka."""
    _, former, _ = init(admin)
    code, new, epoch = init(admin, producer_id=former, epoch=3)

    assert (code, epoch, new > former) == (0, 0, True)


@pytest.mark.parametrize(("producer_id", "epoch"), [(5, -1), (-1, 5)])
def test_half_an_identity(admin: Admin, producer_id: int, epoch: int) -> None:
    """An id without an epoch, or an epoch without an id, is INVALID_REQUEST."""
    assert init(admin, producer_id=producer_id, epoch=epoch) == (42, -1, -1)


def test_an_empty_transactional_id(admin: Admin) -> None:
    """INVALID_REQUEST."""
    assert init(admin, transactional_id="") == (42, -1, -1)


def test_after_a_restart(tmp_path: Path) -> None:
    """The rest of a block at a stop is skipped."""
    with admin_of(tmp_path) as admin:
        _, before, _ = init(admin)
        admin.restart()
        _, after, _ = init(admin)

        assert before < BLOCK_IDS <= after


def test_next_block(tmp_path: Path) -> None:
    """When a block is used up the next one is claimed once, whatever the number of concurrent requests."""
    with admin_of(tmp_path) as admin:

        async def many() -> list[int]:
            producers = admin.broker.producers
            return await asyncio.gather(*(producers.allocate() for _ in range(3 * BLOCK_IDS + 1)))

        assert list(range(3 * BLOCK_IDS + 1)) == sorted(admin.run(many()))


def test_two_who_share_a_store(tmp_path: Path) -> None:
    """A block belongs to the allocator that claimed it, so two allocators of one store never meet."""
    with admin_of(tmp_path) as admin:
        other = ProducerIds(admin.broker.store)
        pairs = [(admin.run(admin.broker.producers.allocate()), admin.run(other.allocate())) for _ in range(5)]

        assert len({producer_id for pair in pairs for producer_id in pair}) == 10


def test_cancelled_claim(tmp_path: Path) -> None:
    """A claim that is given up half way costs ids at most."""
    with admin_of(tmp_path) as admin:
        producers = admin.broker.producers

        async def give_up() -> None:
            claiming = asyncio.create_task(producers.allocate())
            await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)

        admin.run(give_up())
        allocated = [admin.run(producers.allocate()) for _ in range(3)]

        assert len(set(allocated)) == 3
