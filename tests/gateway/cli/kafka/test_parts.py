"""The tools' pure parts: places, templates, forms of a record, rates, quantities."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.cli.client.cluster import NewRecord, Record
from gateway.cli.client.connection import Connection, split_address
from gateway.cli.kafka import formats, positions, sources
from gateway.cli.kafka.reading import Newest, in_order_of_time
from gateway.cli.kafka.templates import Template
from gateway.cli.output import json_text, visible
from gateway.cli.refused import Refused
from gateway.config.quantities import in_unit_of, size_of, time_ms_of

pytestmark = pytest.mark.slow

BYTES = st.none() | st.binary(max_size=50)
RECORDS = st.builds(
    Record,
    topic=st.just("t"),
    partition=st.integers(0, 9),
    offset=st.integers(0, 2**62),
    timestamp_ms=st.integers(-1, 2**62),
    key=BYTES,
    value=BYTES,
    headers=st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), BYTES), max_size=3),
)


class TestFormats:
    @given(RECORDS)
    def test_json_round(self, record: Record) -> None:
        """What JSON tells of a record makes the same record again, except a header without a value, which is empty."""
        line = formats.line(record)
        assert line.count(b"\n") == 1

        (again,) = sources.from_json(io.BytesIO(line), sources.Common())
        assert (again.key, again.value) == (record.key, record.value)
        assert list(again.headers) == [(name, value or b"") for name, value in record.headers]
        assert again.timestamp_ms == (record.timestamp_ms if record.timestamp_ms >= 0 else None)

    @given(RECORDS)
    def test_safe(self, record: Record) -> None:
        """A terminal gets no control character from a record."""
        shown = formats.formatter("{key} {value} {headers}", safe=True)(record)

        assert shown.endswith(b"\n")
        assert all(char.isprintable() or char == "\t" for char in shown[:-1].decode())

    @given(RECORDS)
    def test_pretty(self, record: Record) -> None:
        """Any record can be shown as indented JSON."""
        assert json.loads(formats.pretty(record))["offset"] == record.offset


class TestPlaces:
    @given(st.text(max_size=12))
    def test_any_text(self, text: str) -> None:
        """A text is a place or is refused."""
        with contextlib.suppress(Refused):
            assert positions.parse(text, "--from", 0).kind in ("start", "end", "offset", "last", "time")

    @given(st.integers(0, 99), st.integers(0, 99), st.integers(-1, 300), st.integers(0, 300))
    def test_within(self, start: int, length: int, at_time: int, value: int) -> None:
        """Every place lies between the start and the end of the partition."""
        for kind in ("start", "end", "offset", "last", "time"):
            place = positions.Position(kind, value)
            assert start <= positions.resolve(place, start, start + length, at_time) <= start + length

    def test_later_than_all(self) -> None:
        """A time after the newest record is the end."""
        assert positions.resolve(positions.Position("time", 5), 3, 9, -1) == 9


class TestTemplates:
    @given(st.text(st.characters(exclude_characters="{}"), max_size=30))
    def test_plain(self, text: str) -> None:
        """Text without holes is copied."""
        assert Template(text).made(3) == text

    def test_holes(self) -> None:
        """Each hole keeps its bounds."""
        made = (
            Template("{{seq}}|{{int 3 3}}|{{choice a}}|{{hex 5}}|{{text 4}}|{{float 1 1}}|{{uuid}}", 1)
            .made(9)
            .split("|")
        )

        assert made[:3] == ["9", "3", "a"]
        assert [len(part) for part in made[3:5]] == [5, 4]
        assert made[5] == "1.000"
        assert len(made[6]) == 36

    @pytest.mark.parametrize(
        "hole", ["{{int 9 1}}", "{{int a b}}", "{{hex -1}}", "{{choice}}", "{{seq 1}}", "{{text 9999999}}"]
    )
    def test_refused(self, hole: str) -> None:
        """A hole that nothing can fill is refused before anything is written."""
        with pytest.raises(Refused, match="double braces"):
            Template(hole)


class TestOrder:
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=60))
    def test_merged(self, pairs: list[tuple[int, int]]) -> None:
        """Nothing is lost, a partition keeps its order, and times do not go back but within one partition."""
        records = [Record("t", partition, at, stamp, None, b"", ()) for at, (partition, stamp) in enumerate(pairs)]
        merged = in_order_of_time(records)
        assert sorted(one.offset for one in merged) == list(range(len(records)))
        for partition in range(4):
            offsets = [one.offset for one in merged if one.partition == partition]
            assert offsets == sorted(offsets)
        by_partition = [[stamp for one, stamp in pairs if one == partition] for partition in range(4)]
        if all(stamps == sorted(stamps) for stamps in by_partition):
            assert [one.timestamp_ms for one in merged] == sorted(stamp for _, stamp in pairs)

    @given(st.lists(st.lists(st.integers(0, 30), max_size=10), max_size=8), st.integers(1, 12))
    def test_newest(self, batches: list[list[int]], count: int) -> None:
        """The newest of all, however they came; never more than twice as many are kept, and one batch."""
        newest, every = Newest(count), []
        for batch in batches:
            records = [Record("t", 0, len(every) + at, stamp, None, b"", ()) for at, stamp in enumerate(batch)]
            every += records
            newest.add(iter(records))
            assert len(newest) <= 2 * count
        wanted = sorted(every, key=lambda one: (one.timestamp_ms, one.offset))[-count:]
        assert newest.in_order() == wanted


@given(st.recursive(st.text() | st.integers(), st.lists))
@example("\x9b31m \x07 \u202e \ud800 \U000e0001")
def test_json_for_a_terminal(value: Any) -> None:
    """JSON has no character that could act on a terminal, and still the same value."""
    for indent in (None, 2):
        text = json_text(value, indent)
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == value


def test_rate() -> None:
    """Records are held back to the rate, and a late one is not made up for by waiting."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def records() -> Iterator[NewRecord]:
        for number in range(4):
            now[0] += 5.0 if number == 2 else 0.0
            yield NewRecord(None, b"")

    assert len(list(sources.paced(records(), 2.0, lambda: now[0], sleep))) == 4
    assert slept == [0.5]


class TestConnection:
    @pytest.mark.parametrize(
        ("text", "address"),
        [("h", ("h", 9092)), ("h:1", ("h", 1)), ("[::1]:7", ("::1", 7)), ("[::1]", ("::1", 9092))],
    )
    def test_address(self, text: str, address: tuple[str, int]) -> None:
        """An address has a port of its own, or Kafka's."""
        assert split_address(text) == address

    @pytest.mark.parametrize("text", ["", ":1", "h:", "h:0", "h:65536", "h:x", "http://h:1", "h:²"])
    def test_wrong_address(self, text: str) -> None:
        """Anything else is refused."""
        with pytest.raises(Refused, match="allowed"):
            split_address(text)

    def test_likely_protocol(self) -> None:
        """What is given decides what is spoken: a user SASL, certificates TLS, both both."""
        protocols = [
            connection.checked().security_protocol
            for connection in (
                Connection(),
                Connection(ca="c"),
                Connection(user="u", password_file="p"),
                Connection(user="u", password_file="p", ca="c"),
            )
        ]
        assert protocols == ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


class TestQuantities:
    @pytest.mark.parametrize(
        ("key", "text", "number"),
        [
            ("log.cache.bytes", "256MiB", "268435456"),
            ("log.cache.bytes", "1 GB", "1000000000"),
            ("log.cache.bytes", "1.5KiB", "1536"),
            ("retention.ms", "7d", "604800000"),
            ("log.retention.hours", "7d", "168"),
            ("log.retention.minutes", "2h", "120"),
            ("retention.ms", "-1", "-1"),
            ("retention.ms", "1000", "1000"),
            ("cleanup.policy", "7d", "7d"),
        ],
    )
    def test_unit(self, key: str, text: str, number: str) -> None:
        """A unit is taken where the key counts bytes or time; a number keeps its meaning."""
        assert in_unit_of(key, text) == number

    @pytest.mark.parametrize(
        ("key", "text"), [("retention.ms", "7MiB"), ("log.cache.bytes", "7d"), ("log.retention.hours", "30min")]
    )
    def test_wrong_unit(self, key: str, text: str) -> None:
        """A unit of another kind, or a part of the key's unit, is refused."""
        with pytest.raises(ValueError, match="is a number with"):
            in_unit_of(key, text)

    @given(st.text(max_size=10))
    def test_any_text(self, text: str) -> None:
        """Any text is a quantity or none."""
        for parsed in (size_of(text), time_ms_of(text)):
            assert parsed is None or parsed >= 0


@given(st.text())
def test_visible(text: str) -> None:
    """What is visible is one line without control characters."""
    assert all(char.isprintable() or char == "\t" for char in visible(text))
