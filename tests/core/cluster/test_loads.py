"""How busy containers are: measured, smoothed, told."""

from __future__ import annotations

import pytest

from core.cluster.loads import BASE_WEIGHT, NODE_BYTES_S, WINDOW_S, Load, Meter, Totals, decode, encode, weights_of

MIB = 1 << 20


def totals(bytes_in: int = 0, bytes_out: int = 0, calls: int = 0) -> Totals:
    return Totals(bytes_in, bytes_out, calls, log_bytes=123_456)


def test_an_even_load_is_known_from_the_second_look_on() -> None:
    meter = Meter()
    assert meter.measure({1: totals(5_000)}, loop_s=3.0, now_s=100.0)[1] == Load(log_bytes=123_456)
    for n in range(1, 4):
        (load,) = meter.measure({1: totals(5_000 + n * 10_000, n * 20_000)}, 3.0 + n * 5.0, 100.0 + 10 * n).values()
        assert load.bytes_in_s == pytest.approx(1_000)
        assert load.bytes_out_s == pytest.approx(2_000)
        assert load.loop == pytest.approx(0.5)


def test_a_load_that_begins_or_ends_is_smoothed() -> None:
    meter = Meter()
    seen = []
    for n in range(60):
        done = totals(max(0, n - 29) * 10 * MIB)
        seen.append(meter.measure({1: done}, 0.0, 10.0 * n)[1].bytes_in_s)
    assert set(seen[:30]) == {0.0}
    assert seen[30] < 0.4 * MIB
    assert seen[30 + round(WINDOW_S / 10)] == pytest.approx(0.65 * MIB, rel=0.1)
    assert seen[59] == pytest.approx(MIB, rel=0.02)


def test_small_records_take_the_loop_and_few_bytes() -> None:
    meter = Meter()
    meter.measure({1: totals(), 2: totals()}, 0.0, 0.0)
    loads = meter.measure({1: totals(calls=1_000), 2: totals(bytes_in=64 * 1024 * 1_000)}, 8.0, 10.0)
    assert loads[1].loop == pytest.approx(loads[2].loop) == pytest.approx(0.4)
    assert loads[1].bytes_in_s == 0


def test_one_that_comes_or_goes_or_is_opened_anew_does_not_count_what_was_before() -> None:
    meter = Meter()
    meter.measure({1: totals(10**9)}, 0.0, 0.0)
    loads = meter.measure({1: totals(10**9), 2: totals(10**9)}, 0.0, 10.0)
    assert (loads[1].bytes_in_s, loads[2].bytes_in_s) == (0, 0)
    assert meter.measure({2: totals(10**9)}, 0.0, 20.0).keys() == {2}
    opened_anew = meter.measure({2: totals(50)}, 0.0, 30.0)[2]
    assert 0 < opened_anew.bytes_in_s <= 5


def test_rows_are_rounded_so_that_what_hardly_changes_is_not_told_again() -> None:
    row = encode({3: Load(123_456.0, 0.4, 0.1234, 987_654_321)})
    assert row == b'{"v":1,"containers":{"3":[120000,0,120,990000000]}}'
    assert decode(row) == {3: Load(120_000, 0, 0.12, 990_000_000)}
    assert encode({3: Load(123_999.0, 0.3, 0.1229, 990_000_001)}) == row


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"7",
        b"{}",
        b'{"v":2,"containers":{}}',
        b'{"v":1,"containers":{"1":[1,2,3]}}',
        b'{"v":1,"containers":{"1":[1,2,-3,4]}}',
        b'{"v":1,"containers":{"1":[1e999,2,3,4]}}',
        b'{"v":1,"containers":[1]}',
    ],
)
def test_what_is_no_row_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(row)


def test_weights_are_parts_of_a_node_and_an_idle_container_has_one() -> None:
    told = [{1: Load()}, {2: Load(bytes_in_s=NODE_BYTES_S / 2, loop=0.25)}]
    assert weights_of(told) == {1: BASE_WEIGHT, 2: pytest.approx(BASE_WEIGHT + 0.75)}
