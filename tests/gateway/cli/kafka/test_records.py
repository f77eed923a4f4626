"""`penstock produce` and `penstock consume`: bytes in, the same bytes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.launching import END_WITHIN_S, PENSTOCK

pytestmark = pytest.mark.slow


def test_lines(tools: Tools) -> None:
    """Lines become records; a separator divides the key off; a format puts them together again."""
    tools.say("topics", "create", "lines", "-p", "1")
    tools.say("produce", "lines", "--key-separator", ":", "-H", "from=test", given="a:1\nb:2:3\n")

    assert (
        tools.say("consume", "lines", "--format", r"{key}\t{value}\t{headers}")
        == "a\t1\tfrom=test\nb\t2:3\tfrom=test\n"
    )
    assert "line 1 has no ':'" in tools.refuse("produce", "lines", "--key-separator", ":", code=2, given="none\n")


def test_every_byte(tools: Tools) -> None:
    """Bytes that are no text come out as they went in, and survive JSON."""
    value = bytes(byte for byte in range(256) if byte != 0x0A)
    tools.say("topics", "create", "bytes", "bytes-again", "-p", "1")
    tools.say("produce", "bytes", given=value)

    assert tools.say("consume", "bytes").encode(errors="surrogateescape") == value + b"\n"

    tools.say("produce", "bytes-again", "--records", given=tools.say("consume", "bytes", "--json"))
    assert tools.say("consume", "bytes-again").encode(errors="surrogateescape") == value + b"\n"


def test_json_round(tools: Tools) -> None:
    """`consume --json` into `produce --records` keeps key, value, headers, time, and no value at all."""
    tools.say("topics", "create", "round-a", "round-b", "-p", "1")
    tools.say("produce", "round-a", "-k", "k", "-H", "h=1", given='{"a": [1, 2]}\n')
    tools.say("produce", "round-a", "-k", "k", "--tombstone")
    tools.say("produce", "round-b", "--records", given=tools.say("consume", "round-a", "--json"))

    def told(topic: str) -> list[dict[str, object]]:
        lines = tools.say("consume", topic, "--json").splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "topic"} for line in lines]

    assert told("round-b") == told("round-a")
    assert told("round-b")[1]["value"] is None
    pretty = tools.say("consume", "round-b", "-n", "1", "--pretty")
    assert json.loads(pretty)["value"] == {"a": [1, 2]}


def test_generated(tools: Tools) -> None:
    """A template makes so many records; the same seed makes them again."""
    tools.say("topics", "create", "made", "-p", "1")
    template = (
        "--template",
        '{"id": {{seq}}, "n": {{int 1 9}}}',
        "--key-template",
        "k{{seq}}",
        "--seed",
        "7",
        "-n",
        "3",
    )
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        assert tools.tell("produce", "made", *template, "--compression", codec)["records"] == 3

    lines = tools.say("consume", "made", "--format", "{key} {value}").splitlines()

    assert len(lines) == 12
    assert lines[:3] == lines[3:6] == lines[6:9] == lines[9:]
    assert [line.split()[0] for line in lines[:3]] == ["k0", "k1", "k2"]
    assert "allowed in double braces" in tools.refuse("produce", "made", "--template", "{{nope}}", code=2)


def test_files(tools: Tools, tmp_path: Path) -> None:
    """--whole makes one record of each file, line breaks and all."""
    tools.say("topics", "create", "files", "-p", "1")
    for number in range(2):
        (tmp_path / str(number)).write_text(f"{number}\nx\n")
    tools.say("produce", "files", "--whole", str(tmp_path / "0"), str(tmp_path / "1"))

    assert tools.say("consume", "files", "--format", "{size}") == "4\n4\n"
    assert "cannot be read" in tools.refuse("produce", "files", "--whole", str(tmp_path / "2"), code=2)


def test_places(tools: Tools) -> None:
    """Reading begins and ends at an offset, at the last N, at a time, at an age."""
    tools.say("topics", "create", "places", "-p", "1", "--set", "retention.ms=-1")
    stamped = [json.dumps({"value": str(number), "timestamp": 1_700_000_000_000 + number}) for number in range(6)]
    tools.say("produce", "places", "--records", given="\n".join(stamped))

    def read(*flags: str) -> str:
        return "".join(tools.say("consume", "places", *flags).split())

    assert read() == "012345"
    assert read("--from", "4") == "45"
    assert read("--from", "-2") == "45"
    assert read("--from", "end") == ""
    assert read("--from", "@1700000000003") == "345"
    assert read("--from", "2023-11-14T22:13:20.001Z", "--until", "3") == "12"
    assert read("--from", "-1h") == ""
    assert read("-n", "2") == "01"
    assert "allowed: start, end" in tools.refuse("consume", "places", "--from", "yesterday", code=2)
    assert "there is no such partition" in tools.refuse("consume", "places", "--partition", "3", code=2)


def test_tail(tools: Tools) -> None:
    """--tail shows the newest records of all partitions in the order of their times."""
    tools.say("topics", "create", "tail", "-p", "4", "--set", "retention.ms=-1")  # the records are of 2023
    for number in range(8):
        record = json.dumps({"value": str(number), "timestamp": 1_700_000_000_000 + number})
        tools.say("produce", "tail", "--records", "--partition", str(3 - number % 4), given=record)

    assert tools.say("consume", "tail", "--tail", "5").split() == ["3", "4", "5", "6", "7"]


def test_newest_of_a_key(tools: Tools) -> None:
    """--newest shows one record: the latest with the key."""
    tools.say("topics", "create", "keys", "-p", "3")
    tools.say("produce", "keys", "--key-separator", ":", given="a:1\nb:2\na:3\n")

    assert tools.say("consume", "keys", "-k", "a", "--newest") == "3\n"
    assert "no such record" in tools.refuse("consume", "keys", "-k", "c", "--newest")


def test_end_of_a_transaction(tools: Tools) -> None:
    """A marker at the end of a partition is passed: reading ends, and --committed leaves out what was aborted."""
    tools.say("topics", "create", "transaction", "-p", "1")
    producer = Producer({"bootstrap.servers": tools.address, "transactional.id": "cli-records"})
    producer.init_transactions(15)
    for value, commit in (("kept", True), ("aborted", False)):
        producer.begin_transaction()
        producer.produce("transaction", value, partition=0)
        producer.flush(15)
        producer.commit_transaction(15) if commit else producer.abort_transaction(15)

    assert tools.say("consume", "transaction").split() == ["kept", "aborted"]
    assert tools.say("consume", "transaction", "--committed").split() == ["kept"]


def test_a_record_that_is_refused(tools: Tools) -> None:
    """It is told which one it was, and what of the input is written."""
    tools.say("topics", "create", "narrow", "-p", "1", "--set", "max.message.bytes=300")
    lines = "\n".join(["1", "2", "x" * 1000, "4"])

    refused = tools.refuse("produce", "narrow", "--rate", "20", given=lines)

    assert refused.startswith("record 3: ")
    assert refused.endswith("; 2 records before it written")
    assert tools.say("consume", "narrow").split()[:2] == ["1", "2"]


def test_follow(tools: Tools) -> None:
    """--follow prints what comes later, and Ctrl-C is an orderly end."""
    tools.say("topics", "create", "follow", "-p", "1")
    tools.say("produce", "follow", given="before\n")
    command = [PENSTOCK, "consume", "follow", "--follow", "--from", "start", "--bootstrap", tools.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "before\n"
        tools.say("produce", "follow", given="after\n")
        assert following.stdout.readline() == "after\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(END_WITHIN_S) == 0


def test_follow_in_order_of_time(tools: Tools) -> None:
    """Records of several partitions come as they were written, not one partition after the other."""
    tools.say("topics", "create", "follow-all", "-p", "3", "--set", "retention.ms=-1")  # the records are of 2023
    for partition in range(3):
        numbers = range(partition, 30, 3)
        stamped = [json.dumps({"value": str(n), "timestamp": 1_700_000_000_000 + n}) for n in numbers]
        tools.say("produce", "follow-all", "--records", "--partition", str(partition), given="\n".join(stamped))

    shown = tools.say("consume", "follow-all", "--follow", "--from", "start", "-n", "30").split()
    assert shown == [str(n) for n in range(30)]


def test_closed_pipe(tools: Tools) -> None:
    """A reader that has had enough ends the command without a complaint."""
    tools.say("topics", "create", "pipe", "-p", "1")
    tools.say("produce", "pipe", "--template", "{{text 1000}}", "-n", "2000")
    command = f"{PENSTOCK} consume pipe --bootstrap {tools.address} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_rate(tools: Tools) -> None:
    """--rate writes all records, however fast."""
    tools.say("topics", "create", "rate", "-p", "1")

    assert tools.tell("produce", "rate", "--template", "x", "-n", "11", "--rate", "1000")["records"] == 11


def test_group(tools: Tools) -> None:
    """A group goes on where it stopped: exactly what was printed is committed."""
    tools.say("topics", "create", "group", "-p", "1")
    tools.say("produce", "group", given="1\n2\n3\n")

    assert tools.say("consume", "group", "-g", "cli-group", "-n", "2").split() == ["1", "2"]
    assert tools.say("consume", "group", "-g", "cli-group", "-n", "1").split() == ["3"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--newest", "--follow"), "leave out --follow"),
        (("--follow", "--until", "end"), "leave out --until"),
        (("--group", "g", "--tail", "3"), "leave out --until and --tail"),
        (("--group", "g", "--partition", "0"), "leave out --partition"),
        (("--group", "g", "--from", "-5"), "--from start or --from end"),
        (("--tail", "3", "--from", "end"), "leave out --from, --until and --count"),
        (("--tail", "3", "--until", "5"), "leave out --from, --until and --count"),
        (("--tail", "3", "-n", "2"), "leave out --from, --until and --count"),
        (("--newest", "-n", "2"), "leave out --count"),
        (("--format", "{nonsense}"), "{nonsense} is no field"),
    ],
)
def test_contradictions(tools: Tools, flags: tuple[str, ...], why: str) -> None:
    """Flags that contradict one another are refused."""
    assert why in tools.refuse("consume", "any", *flags, code=2)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--template", "x", "--tombstone", "-k", "a"), "give one"),
        (("--records", "--whole", "/dev/null"), "give one"),
        (("/dev/null", "--template", "x"), "read no file"),
        (("--whole",), "name files"),
        (("--template", "x", "--key-separator", ":"), "divides lines"),
        (("--key-template", "x"), "belongs to --template"),
        (("--seed", "1"), "belongs to --template"),
        (("--template", "x", "--key-template", "y", "-k", "z"), "a record's key: give one"),
        (("--key-separator", ":", "-k", "z"), "a record's key: give one"),
        (("/nowhere",), "/nowhere: cannot be read: there is no such file"),
        (("--template", "{{nope}}"), "allowed in double braces"),
        (("--tombstone",), "name it with --with-key"),
    ],
)
def test_contradictions_of_a_producer(tools: Tools, flags: tuple[str, ...], why: str) -> None:
    """Nothing is written where a flag would be ignored."""
    assert why in tools.refuse("produce", "any", *flags, code=2, bootstrap=False)
