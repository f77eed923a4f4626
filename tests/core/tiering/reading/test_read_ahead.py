"""Readers that go on where an answer ended get from memory what they would get from afar."""

from __future__ import annotations

import pytest

from core.errors import CorruptState
from tests.core.support import KIB, run, until
from tests.core.tiering.reading.test_reader import chunked, filler

pytestmark = pytest.mark.slow


def test_a_gap_is_not_passed_over() -> None:
    """Entries between two runs are in no chunk: a reader hears of it there, however much was loaded ahead."""

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            for first in (0, 200, 300):
                row = await chunks.add(filler(first, 100 + 100 * (first != 200), KIB))
            assert (row.first, row.end) == (300, 500)
            del chunks.known.rows[1]
            reader, offset, answers = chunks.reader(), 0, 0
            while offset < 200:
                answer = await reader.read(chunks.slot, offset, row.end, 20 * KIB, True)
                assert offset < answer.end <= 200
                offset, answers = answer.end, answers + 1
                await until(lambda: all(one.opening is None for one in reader._ahead._followers.values()))
            assert answers > 5
            with pytest.raises(CorruptState, match="neither the log nor a chunk holds offset 200"):
                await reader.read(chunks.slot, offset, row.end, 20 * KIB, True)
            await reader.close()

    run(scenario())
