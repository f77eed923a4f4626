"""`penstock topics` and `penstock configs`: what they change, show and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.forking import serving

pytestmark = pytest.mark.slow


def test_life_of_a_topic(tools: Tools) -> None:
    """A topic is created with configs in units, listed, shown, altered, grown and deleted."""
    tools.say("topics", "create", "life", "-p", "2", "--set", "retention.ms=7d", "--set", "max.message.bytes=2MiB")
    assert {"topic": "life", "partitions": 2, "replication": 1} in tools.tell("topics", "list")

    shown = tools.tell("topics", "show", "life")
    assert [one["partition"] for one in shown["partitions"]] == [0, 1]
    assert shown["configs"] == {"max.message.bytes": str(2 * 1024 * 1024), "retention.ms": str(7 * 24 * 3_600_000)}

    tools.say("topics", "alter", "life", "--set", "retention.ms=1h", "--unset", "max.message.bytes")
    assert tools.tell("topics", "show", "life")["configs"] == {"retention.ms": "3600000"}

    tools.say("topics", "grow", "life", "-p", "5", "--yes")
    assert len(tools.tell("topics", "show", "life")["partitions"]) == 5

    tools.say("topics", "delete", "life", "--yes")
    assert "life" not in tools.say("topics", "list")


def test_from_a_file(tools: Tools, tmp_path: Path) -> None:
    """A file of settings describes topics as tables; keys with dots and units are understood."""
    file = tmp_path / "topics.toml"
    file.write_text(
        '[from-a-file]\npartitions = 3\nconfigs."retention.ms" = "2d"\n'
        "[file-b.configs]\ncleanup.policy = ['compact']\nretention.bytes = '1GiB'\n"
    )
    assert tools.tell("topics", "create", "--file", str(file), "--dry-run") == {
        "topics": ["from-a-file", "file-b"],
        "created": False,
    }
    assert "from-a-file" not in tools.say("topics", "list")

    tools.say("topics", "create", "--file", str(file))

    shown = tools.tell("topics", "show", "from-a-file")
    assert (len(shown["partitions"]), shown["configs"]) == (3, {"retention.ms": "172800000"})
    assert tools.tell("topics", "show", "file-b")["configs"]["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "describes no topic"),
        ("[t]\npartition = 3\n", "unknown setting 'partition'"),
        ("[t]\npartitions = 'many'\n", "are numbers"),
        ("t = 3\n", "a topic is a table"),
        ("[t\n", "cannot be read"),
        ("[t.configs]\n'retention.ms' = '7MiB'\n", "a time is a number with"),
    ],
)
def test_wrong_file(tools: Tools, tmp_path: Path, text: str, why: str) -> None:
    """A file that is wrong is refused before anything is created, with what is wrong in it."""
    file = tmp_path / "topics.toml"
    file.write_text(text)
    done = tools.run("topics", "create", "--file", str(file), bootstrap=False)

    assert done.returncode != 0
    assert why in done.stderr


def test_refusals(tools: Tools) -> None:
    """What cannot be done is one line with the reason, and changes nothing."""
    tools.say("topics", "create", "refusals", "-p", "2")

    assert "there is no topic 'nope'" in tools.refuse("topics", "show", "nope")
    assert "TOPIC_ALREADY_EXISTS" in tools.refuse("topics", "create", "refusals")
    assert "INVALID_TOPIC" in tools.refuse("topics", "create", "a b")
    assert "no topic can have fewer" in tools.refuse("topics", "grow", "refusals", "-p", "1", "--yes")
    assert "Unknown topic config name: nonsense" in tools.refuse("topics", "alter", "refusals", "--set", "nonsense=1")
    assert "must be KEY=VALUE" in tools.refuse("topics", "alter", "refusals", "--set", "nonsense", code=2)
    assert "no regular expression" in tools.refuse("topics", "list", "(", code=2)


def test_one_of_several_is_not_created(tools: Tools) -> None:
    """Of each topic is told what became of it: those before the refused one are there, those after it are not."""
    tools.say("topics", "create", "there")
    done = tools.run("topics", "create", "one-a", "there", "one-c", "--json")
    text = tools.run("topics", "create", "one-d", "there", "one-e", "one-f")

    assert (done.returncode, text.returncode) == (1, 1)
    told = json.loads(done.stdout)
    assert "TOPIC_ALREADY_EXISTS" in told["refused"].pop("there")
    assert told == {"topics": ["one-a"], "created": True, "refused": {}, "not_tried": ["one-c"]}
    assert text.stdout.splitlines() == ["one-d: created", "one-e: not tried", "one-f: not tried"]
    assert done.stderr == text.stderr
    assert text.stderr.startswith("penstock: topic 'there': ")
    first = json.loads(tools.run("topics", "create", "there", "one-g", "--json").stdout)
    assert (first["topics"], first["created"], first["not_tried"]) == ([], False, ["one-g"])
    assert {one["topic"] for one in tools.tell("topics", "list", "^one-")} == {"one-a", "one-d"}
    assert tools.run("topics", "create", "there", "--json").stdout == ""


def test_one_of_several_is_not_deleted(tools: Tools) -> None:
    """Those that can be deleted are, and are told; the others each with the reason."""
    for name in ("two-a", "two-b"):
        tools.say("topics", "create", name)
    done = tools.run("topics", "delete", "two-a", "__consumer_offsets", "--yes", "--json")
    text = tools.run("topics", "delete", "__consumer_offsets", "two-b", "--yes")

    assert (done.returncode, text.returncode) == (1, 1)
    told = json.loads(done.stdout)
    assert told["deleted"] == ["two-a"]
    assert "a view of the store's tables" in told["refused"]["__consumer_offsets"]
    assert text.stdout == "two-b: deleted\n"
    assert text.stderr.startswith("penstock: topic '__consumer_offsets': ")
    assert tools.tell("topics", "list", "^two-") == []


def test_one_of_several_is_not_there(tools: Tools) -> None:
    """Nothing is deleted where a name is wrong, and each of them is told."""
    tools.say("topics", "create", "three-a", "three-b")
    done = tools.run("topics", "delete", "three-a", "nope", "three-b", "neither", "--yes", "--json")
    text = tools.run("topics", "delete", "three-a", "nope", "three-b", "neither", "--yes")

    assert (done.returncode, text.returncode) == (1, 1)
    told = json.loads(done.stdout)
    assert set(told.pop("refused")) == {"nope", "neither"}
    assert told == {"deleted": [], "not_tried": ["three-a", "three-b"]}
    assert text.stdout.splitlines() == ["three-a: not tried", "three-b: not tried"]
    assert done.stderr == text.stderr
    assert "there is no topic 'nope'" in text.stderr
    assert "there is no topic 'neither'" in text.stderr
    assert len(tools.tell("topics", "list", "^three-")) == 2
    assert tools.run("topics", "delete", "nope", "--yes", "--json").stdout == ""


@pytest.mark.parametrize("command", [("delete",), ("grow", "-p", "9")])
def test_no_terminal(tools: Tools, command: tuple[str, ...]) -> None:
    """Without a terminal and without --yes nothing destructive is done, whatever standard input says."""
    name = f"kept-{command[0]}"
    tools.say("topics", "create", name, "-p", "1")

    refused = tools.refuse("topics", command[0], name, *command[1:], code=2, given="y\n")

    assert "say --yes" in refused
    assert len(tools.tell("topics", "show", name)["partitions"]) == 1


def test_sizes(tools: Tools) -> None:
    """--sizes puts the topic with the most bytes first."""
    tools.say("topics", "create", "size-small", "size-large", "-p", "1")
    tools.say("produce", "size-large", "--template", "{{text 2000}}", "-n", "50")

    listed = tools.tell("topics", "list", "^size-", "--sizes")

    assert [one["topic"] for one in listed] == ["size-large", "size-small"]
    assert listed[0]["bytes"] > 100_000 > listed[1]["bytes"]


def test_configs(tools: Tools) -> None:
    """Configs are shown with their source, changed after a rehearsal, and compared between two clusters."""
    tools.say("topics", "create", "conf-a", "conf-b")
    rehearsed = tools.tell("configs", "alter", "topic", "conf-a", "--set", "retention.ms=1d", "--dry-run")
    assert rehearsed["changed"] is False
    assert tools.tell("configs", "show", "topic", "conf-a", "--changed") == []

    tools.say("configs", "alter", "topic", "conf-a", "--set", "retention.ms=1d")

    (changed,) = tools.tell("configs", "show", "topic", "conf-a", "--changed")
    assert (changed["key"], changed["value"], changed["source"]) == ("retention.ms", "86400000", "DYNAMIC_TOPIC_CONFIG")
    compared = tools.run(
        "configs", "diff", "topic", "conf-a", "--with", tools.address, "--with-name", "conf-b", "--json"
    )
    assert compared.returncode == 1
    assert '"here": "86400000"' in compared.stdout
    assert "no difference" in tools.say("configs", "diff", "topic", "conf-a", "--with", tools.address)
    gone = ("configs", "diff", "topic", "conf-a", "--with", tools.address, "--with-name", "none")
    assert tools.refuse(*gone).startswith(f"{tools.address}: topic 'none': ")
    assert "there is no broker '7'" in tools.refuse("configs", "show", "broker", "7", code=2)


def test_two_clusters(tools: Tools, tmp_path: Path) -> None:
    """All topics at once: those that only one has, those whose configs differ, and no other; or brokers."""
    tools.say("topics", "create", "both", "differs", "here-only", "-p", "1")
    settings = ("--set", "num.partitions=7", "--set", "auto.create.topics.enable=false")
    with serving(tmp_path / "other", *settings) as gateway:
        there = Tools(gateway.ready()["kafka"][0], tmp_path)
        there.say("topics", "create", "both", "differs", "there-only", "-p", "1")
        there.say("topics", "alter", "differs", "--set", "retention.ms=1d")

        refused = there.refuse("produce", "typo", given="lost\n")
        assert (
            refused
            == "topic 'typo' is not there, and the cluster does not make it by itself: `penstock topics create` does"
        )

        topics = tools.run("configs", "diff", "topic", "--with", there.address, "--json")
        rows = [
            one for one in json.loads(topics.stdout) if one["name"] in ("both", "differs", "here-only", "there-only")
        ]
        brokers = tools.run("configs", "diff", "broker", "--with", there.address)

    assert topics.returncode == brokers.returncode == 1
    assert rows == [
        {"name": "here-only", "key": "(exists)", "here": "yes", "there": None},
        {"name": "there-only", "key": "(exists)", "here": None, "there": "yes"},
        {"name": "differs", "key": "retention.ms", "here": "604800000", "there": "86400000"},
    ]
    (line,) = [line.split() for line in brokers.stdout.splitlines() if "num.partitions" in line]
    assert line[1:] == ["num.partitions", "16", "7"]
    assert "no difference" in tools.say("configs", "diff", "topic", "--with", tools.address)
    assert "name the group to compare" in tools.refuse("configs", "diff", "group", "--with", tools.address, code=2)
