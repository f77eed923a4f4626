"""A table is gone through in steps, each of which looks at few keys and takes few bytes."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
from hypothesis import given

from core.applied.tables import BYTES_AT_ONCE, ROWS_AT_ONCE, Delete, Put, Table


def filled(rows: dict[bytes, bytes]) -> Table:
    table = Table("t")
    for key, value in rows.items():
        table.apply(Put("t", key, value))
    return table


async def steps_of(table: Table, prefix: bytes = b"", most: int = ROWS_AT_ONCE) -> list[list[tuple[bytes, bytes]]]:
    return [rows async for rows in table.in_steps(prefix, most)]


@given(
    st.dictionaries(st.binary(min_size=1, max_size=3), st.integers(0, 2 * BYTES_AT_ONCE).map(bytes), max_size=20),
    st.binary(max_size=1),
    st.integers(1, 8),
)
def test_all_rows_come_once(rows: dict[bytes, bytes], prefix: bytes, most: int) -> None:
    """In their order, with the prefix only; no step is longer than its bounds, but for a long row, which is alone."""
    steps = asyncio.run(steps_of(filled(rows), prefix, most))

    assert [row for step in steps for row in step] == [(k, v) for k, v in rows.items() if k.startswith(prefix)]
    for step in steps:
        assert 1 <= len(step) <= most
        assert len(step) == 1 or sum(len(value) for _, value in step) <= BYTES_AT_ONCE


def test_others_run_after_each_step() -> None:
    """Also where no key has the prefix: a step is as many keys as are looked at."""

    async def scenario() -> None:
        table = filled({b"%d" % number: b"" for number in range(10)})
        turns = 0
        done = False

        async def other() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert await steps_of(table, b"nothing", 2) == []
        done = True
        await task
        assert turns >= 4

    asyncio.run(scenario())


def test_changes_in_between() -> None:
    """A row is as it is when its step begins, and one that is gone by then does not come."""

    async def scenario() -> None:
        table = filled({b"a": b"1", b"b": b"1", b"c": b"1", b"d": b"1"})
        found = []
        async for rows in table.in_steps(most=1):
            found += rows
            if len(found) == 1:
                table.apply(Put("t", b"b", b"2"))
                table.apply(Delete("t", b"c"))
                table.apply(Put("t", b"e", b"2"))
        assert found == [(b"a", b"1"), (b"b", b"2"), (b"d", b"1")]
        assert not table._passes

    asyncio.run(scenario())


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=3), max_size=12),
    st.integers(1, 4),
)
def test_any_changes_in_between(changes: list[list[tuple[int, bool]]], most: int) -> None:
    """Two go through a table at a time: a row that is there all the time comes once to each, with a value that it has
    had; none comes twice."""

    async def scenario() -> None:
        table = filled({b"%d" % number: b"0" for number in range(8)})
        always = set(table.entries)
        had = {key: {b"0"} for key in table.entries}
        found: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]] = ([], [])

        async def pass_through(rows: list[tuple[bytes, bytes]]) -> None:
            async for step in table.in_steps(most=most):
                rows += step

        passes = [asyncio.create_task(pass_through(rows)) for rows in found]
        for at, some in enumerate(changes):
            await asyncio.sleep(0)
            for number, is_put in some:
                key, value = b"%d" % number, b"%d" % (at + 1)
                table.apply(Put("t", key, value) if is_put else Delete("t", key))
                if is_put:
                    had.setdefault(key, set()).add(value)
                else:
                    always.discard(key)
        await asyncio.gather(*passes)
        for rows in found:
            keys = [key for key, _ in rows]
            assert len(set(keys)) == len(keys)
            assert always <= set(keys)
            assert all(value in had[key] for key, value in rows)
        assert not table._passes

    asyncio.run(scenario())


@given(st.integers(0, 10), st.integers(0, 5))
def test_a_table_is_let_go_of(count: int, before: int) -> None:
    """Nothing is found any more, and whoever goes through it just then comes to its end."""

    async def scenario() -> None:
        table = filled({b"%d" % number: b"v" for number in range(count)})
        found: list[bytes] = []
        is_let_go = False
        async for rows in table.in_steps(most=1):
            found += [key for key, _ in rows]
            if len(found) > before and not is_let_go:
                await table.let_go()
                is_let_go = True
        assert len(found) == min(count, before + 1)
        await table.let_go()
        assert (len(table), table.get(b"0"), await steps_of(table)) == (0, None, [])
        table.apply(Put("t", b"k", b"v"))
        assert table.get(b"k") == b"v"

    asyncio.run(scenario())
