"""Opened batches lie in memory that is used again, and that nobody else changes while it is looked at."""

import threading

import pytest

from gateway.records.compression import compress, decompress
from gateway.records.record_batch import GZIP, LZ4, SNAPPY, ZSTD
from gateway.records.room import KEPT_BYTES_MAX
from gateway.wire.errors import InvalidBatch

BOUND = 2 * KEPT_BYTES_MAX
SMALL = compress(LZ4, b"a" * 10_000)
LARGE = compress(ZSTD, bytes(KEPT_BYTES_MAX + 1))


def opened_in(data: bytes, codec: int = LZ4) -> object:
    """The memory that a batch was opened in, without a view of it."""
    return decompress(codec, data, BOUND).obj


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_the_next_batch_is_opened_in_the_same_memory(codec: int) -> None:
    """Whatever the codec, no memory is taken for a batch after the first."""
    memory = opened_in(SMALL)

    assert opened_in(compress(codec, b"b" * 20_000), codec) is memory


def test_what_somebody_looks_at_stays_as_it_is() -> None:
    """A part of a view holds on to the memory; once it is let go, the memory serves again."""
    whole = decompress(LZ4, SMALL, BOUND)
    part = whole[5_000:5_010]
    del whole

    memory = opened_in(compress(LZ4, b"b" * 10_000))
    assert memory is not part.obj
    assert part == b"a" * 10

    del part
    assert opened_in(SMALL) is memory


def test_memory_of_which_much_was_used_is_not_kept() -> None:
    """So a thread at rest holds little, whatever it opened last."""
    memory = opened_in(SMALL)
    assert opened_in(LARGE, ZSTD) is memory

    assert opened_in(SMALL) is not memory


def test_memory_that_a_refused_batch_may_have_filled_is_not_kept() -> None:
    """A bomb ends at the bound, and leaves nothing behind."""
    memory = opened_in(SMALL)
    with pytest.raises(InvalidBatch):
        decompress(ZSTD, compress(ZSTD, bytes(BOUND + 1)), BOUND)

    assert opened_in(SMALL) is not memory


def test_a_small_bound_keeps_its_memory_through_refusals() -> None:
    """The event loop tries each batch at a small bound, and leaves larger ones to threads."""
    memory = opened_in(SMALL)
    with pytest.raises(InvalidBatch):
        decompress(LZ4, SMALL, 1_000)

    assert opened_in(SMALL) is memory


def test_threads_have_memory_of_their_own() -> None:
    """Nothing that one thread opens is changed by another."""
    memory = opened_in(SMALL)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(opened_in(SMALL)))
    thread.start()
    thread.join()

    assert found[0] is not memory
