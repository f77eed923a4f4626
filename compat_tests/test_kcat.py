"""kcat (librdkafka's command line) as people use it in shells and scripts: a table of its commands."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest

from compat_tests.harness.system import System
from compat_tests.harness.waiting import until

_NUMBERS = itertools.count(1)


class Kcat:
    """Runs kcat against the server; a run that fails or takes too long fails the test."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.topic = f"kcat-{next(_NUMBERS)}"

    def __call__(self, *arguments: str, given: str | bytes = b"", fails: bool = False) -> str:
        done = subprocess.run(
            ["kcat", "-b", self._system.address, "-m", "10", *arguments],
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            timeout=40,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr.decode()
        return done.stdout.decode() if not fails else done.stderr.decode()

    def produce(self, lines: str, *arguments: str) -> None:
        self("-P", "-t", self.topic, *arguments, given=lines)

    def consume(self, *arguments: str) -> list[str]:
        return self("-C", "-t", self.topic, "-e", "-q", *arguments).splitlines()


@pytest.fixture
def kcat(system: System) -> Kcat:
    return Kcat(system)


def test_produce_and_consume(kcat: Kcat) -> None:
    """Lines go in at one end and come out at the other, in order, with their offsets."""
    kcat.produce("one\ntwo\nthree\n", "-p", "0")

    assert kcat.consume("-p", "0", "-f", "%o %s\n") == ["0 one", "1 two", "2 three"]


def test_keys_nulls_and_headers(kcat: Kcat) -> None:
    """Keys, null values and headers survive the round trip."""
    kcat.produce("k1:v1\nk2:\n", "-p", "0", "-K:", "-Z", "-H", "a=1", "-H", "b=2")

    shown = kcat.consume("-f", "%k|%s|%S|%h\n")
    assert shown == ["k1|v1|2|a=1,b=2", "k2||-1|a=1,b=2"]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compression(kcat: Kcat, codec: str) -> None:
    """Each codec's batches come back whole."""
    lines = [f"line {number} of many that look much the same" for number in range(500)]
    kcat.produce("\n".join(lines), "-p", "0", "-z", codec)

    assert kcat.consume("-p", "0") == lines


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("beginning", "01234"), ("3", "34"), ("-2", "34"), ("end", "")],
)
def test_offsets(kcat: Kcat, offset: str, expected: str) -> None:
    """Consuming starts at the beginning, at an offset, some before the end, or at the end."""
    kcat.produce("0\n1\n2\n3\n4\n", "-p", "0")

    assert kcat.consume("-p", "0", "-o", offset) == list(expected)


def test_times(kcat: Kcat) -> None:
    """An offset is found by time (-Q), and consuming between two times takes what lies between."""
    kcat.produce("a\nb\n", "-p", "0")

    found = kcat("-Q", "-t", f"{kcat.topic}:0:1", "-t", f"{kcat.topic}:1:1").split("\n")
    assert found[0].split() == [kcat.topic, "[0]", "offset", "0"]
    assert found[1].split() == [kcat.topic, "[1]", "offset", "-1"]
    assert kcat.consume("-p", "0", "-o", "s@1", "-o", "e@99") == []
    assert kcat.consume("-p", "0", "-o", "s@1") == ["a", "b"]


def test_metadata(kcat: Kcat, system: System) -> None:
    """The metadata listing names the broker as the client reached it, the topic and its partitions."""
    kcat.produce("x\n")

    listing = json.loads(kcat("-L", "-J", "-t", kcat.topic))
    assert [broker["name"] for broker in listing["brokers"]] == [system.address]
    assert listing["controllerid"] == listing["brokers"][0]["id"]
    [topic] = listing["topics"]
    assert topic["topic"] == kcat.topic
    assert [p["partition"] for p in topic["partitions"]] == list(range(16))
    assert {p["leader"] for p in topic["partitions"]} == {listing["brokers"][0]["id"]}


def test_a_group(kcat: Kcat) -> None:
    """A balanced consumer reads all partitions and commits; the next one in its group has nothing left."""
    kcat.produce("a\nb\nc\n")
    options = ("-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "-e", "-q")

    first = kcat("-G", f"{kcat.topic}-group", *options, kcat.topic).split()
    second = kcat("-G", f"{kcat.topic}-group", *options, kcat.topic).split()

    assert sorted(first) == ["a", "b", "c"]
    assert second == []


def test_idempotence_and_acks(kcat: Kcat) -> None:
    """Every producer setting that scripts use is understood."""
    kcat.produce("idempotent\n", "-p", "0", "-X", "enable.idempotence=true")
    for acks in ("0", "1", "all"):
        kcat.produce(f"acks {acks}\n", "-p", "0", "-X", f"acks={acks}")

    expected = ["idempotent", "acks 0", "acks 1", "acks all"]
    until(lambda: kcat.consume("-p", "0") == expected, within_s=30, what="all four are there")


def test_json_envelope(kcat: Kcat) -> None:
    """-J shows every field of a record."""
    kcat.produce("k:v\n", "-p", "0", "-K:", "-H", "h=1")

    [record] = map(json.loads, kcat.consume("-J"))
    kept = {key: record[key] for key in ("topic", "partition", "offset", "tstype", "key", "payload")}
    assert kept == {
        "topic": kcat.topic,
        "partition": 0,
        "offset": 0,
        "tstype": "create",
        "key": "k",
        "payload": "v",
    }
    assert record["headers"] == ["h", "1"]


def test_exact_count_and_tail(kcat: Kcat) -> None:
    """-c stops after that many records, and a large log is read to its end in order."""
    lines = [str(number) for number in range(20_000)]
    kcat.produce("\n".join(lines), "-p", "0")

    assert kcat.consume("-p", "0", "-c", "7") == lines[:7]
    assert kcat.consume("-p", "0") == lines


def test_an_unknown_partition(kcat: Kcat) -> None:
    """Asking for a partition that is not there is an error, not a hang."""
    kcat.produce("x\n", "-p", "0")

    said = kcat("-C", "-t", kcat.topic, "-p", "99", "-e", fails=True)
    assert "partition 99 does not exist" in said
