"""`penstock acls`, `quotas`, `credentials` and `configs` where a cluster asks for rights: all that it says is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.forking import serving

pytestmark = pytest.mark.slow

SETTINGS = (
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:ANONYMOUS;User:root",
    "listener.security.protocol.map=OPEN:PLAINTEXT,ASKING:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms=SCRAM-SHA-512",
    "log.file.bytes=4194304",
)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of a listener where everybody may do everything, and of one that asks who is there."""
    settings = [part for one in SETTINGS for part in ("--set", one)]
    listeners = ("--listen", "OPEN://127.0.0.1:0", "--listen", "ASKING://127.0.0.1:0")
    with serving(tmp_path_factory.mktemp("gateway"), *listeners, *settings) as running:
        first, second = running.ready()["kafka"]
        yield first.rpartition("/")[2], second.rpartition("/")[2]


@pytest.fixture
def tools(addresses: tuple[str, str], tmp_path: Path) -> Tools:
    return Tools(addresses[0], tmp_path)


@pytest.fixture
def ann(addresses: tuple[str, str], tools: Tools, tmp_path: Path) -> Tools:
    """A user without rights, by a profile of her own."""
    (tmp_path / "ann.secret").write_text("open-sesame\n")
    tools.say("credentials", "add", "ann", "--new-password-file", str(tmp_path / "ann.secret"))
    flags = ("--user", "ann", "--password-file", str(tmp_path / "ann.secret"))
    one = Tools(addresses[1], tmp_path / "ann")
    one.say("profile", "create", "ann", *flags)
    return one


def test_rights(tools: Tools) -> None:
    """Added, listed by filter, deleted; one of a newer kind hides no other; the broker's own words are passed on."""
    tools.say("acls", "add", "--principal", "User:ann", "--operation", "read", "--resource", "topic:or", "--prefixed")
    tools.say("acls", "add", "--principal", "User:bob", "--operation", "all", "--resource", "group:g", "--deny")
    more = ("--operation", "two_phase_commit", "--resource", "transactional_id:t")
    tools.say("acls", "add", "--principal", "User:ann", *more)

    listed = {
        (one["principal"], one["permission"], one["operation"], one["pattern"]) for one in tools.tell("acls", "list")
    }
    assert listed == {
        ("User:ann", "allow", "read", "prefixed"),
        ("User:bob", "deny", "all", "literal"),
        ("User:ann", "allow", "two_phase_commit", "literal"),
    }
    (of_bob,) = tools.tell("acls", "list", "--resource", "group:g")
    assert of_bob["principal"] == "User:bob"
    without_type = ("--principal", "ann", "--operation", "read", "--resource", "topic:orders")
    assert "INVALID_REQUEST" in _named(tools.refuse("acls", "add", *without_type))

    assert "say --yes" in tools.run("acls", "delete", "--principal", "User:ann").stderr
    assert len(tools.tell("acls", "delete", "--principal", "User:ann", "--yes")) == 2
    assert [one["principal"] for one in tools.tell("acls", "list")] == ["User:bob"]
    assert "no right matches" in tools.refuse("acls", "delete", "--principal", "User:ann", "--yes")
    tools.say("acls", "delete", "--principal", "User:bob", "--yes")


def test_without_rights(tools: Tools, ann: Tools) -> None:
    """What somebody may not see is refused by name, and is not shown as nothing."""
    tools.say("topics", "create", "closed", "-p", "1")
    tools.say("acls", "add", "--principal", "User:ann", "--operation", "describe", "--resource", "topic:closed")

    assert "AUTHORIZATION" in _named(ann.refuse("configs", "show", "topic", "closed"))
    assert "AUTHORIZATION" in _named(ann.refuse("configs", "show", "client-metrics", "slow"))
    compared = ("configs", "diff", "topic", "closed", "--with", tools.address)
    assert "AUTHORIZATION" in _named(ann.refuse(*compared))
    assert "AUTHORIZATION" in _named(ann.refuse("acls", "list"))
    assert "AUTHORIZATION" in _named(ann.refuse("quotas", "list"))
    assert "AUTHORIZATION" in _named(ann.refuse("topics", "delete", "closed", "--yes"))
    assert "must not be empty" in tools.refuse("configs", "show", "group", "")
    tools.say("acls", "delete", "--principal", "User:ann", "--yes")


def test_some_offsets_are_not_set(tools: Tools, ann: Tools) -> None:
    """Offsets of topics that somebody may read are set, and told; the others each with the reason."""
    rights = (("read", "group:some"), ("read", "topic:some-open"), ("describe", "topic:some-closed"))
    for operation, resource in rights:
        tools.say("acls", "add", "--principal", "User:ann", "--operation", operation, "--resource", resource)
    for name in ("some-open", "some-closed"):
        tools.say("topics", "create", name, "-p", "1")
        tools.say("produce", name, given="1\n2\n")
    done = ann.run(
        *("groups", "reset", "some", "--topic", "some-open", "--topic", "some-closed", "--to", "end", "--yes", "--json")
    )

    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["changed"]
    assert [one["topic"] for one in told["partitions"] if "refused" in one] == ["some-closed"]
    assert "AUTHORIZATION" in _named(done.stderr)
    offsets = {one["topic"]: one["offset"] for one in tools.tell("groups", "lag", "some")}
    assert offsets == {"some-open": 2}
    tools.say("acls", "delete", "--principal", "User:ann", "--yes")


def test_a_topic_that_nobody_makes(tools: Tools, ann: Tools) -> None:
    """It is refused before anything is read, by name; where topics are made by themselves, this one is made."""
    assert "AUTHORIZATION" in _named(ann.refuse("produce", "nowhere", given="lost\n"))
    tools.say("produce", "made-by-itself", given="kept\n")
    assert tools.say("consume", "made-by-itself") == "kept\n"


def test_quotas(tools: Tools) -> None:
    """Of a user, of the default, with units; one is deleted, and then the rest."""
    tools.say("quotas", "set", "user=ann", "client-id=app", "--set", "producer_byte_rate=1MiB")
    rates = ("--set", "consumer_byte_rate=2.5MiB", "--set", "request_percentage=50")
    tools.say("quotas", "set", "user", *rates)

    listed = {tuple(sorted(one["entity"].items())): one["quotas"] for one in tools.tell("quotas", "list")}
    assert listed == {
        (("user", None),): {"consumer_byte_rate": 2.5 * 1024 * 1024, "request_percentage": 50.0},
        (("client-id", "app"), ("user", "ann")): {"producer_byte_rate": 1024.0 * 1024},
    }
    shown = tools.say("quotas", "list")
    assert "user=(default)" in shown
    assert "1048576 (1.0 MiB/s)" in shown
    assert "2621440 (2.5 MiB/s)" in shown
    tools.say("quotas", "delete", "user", "--quota", "request_percentage", "--yes")
    assert "request_percentage" not in tools.say("quotas", "list")
    assert "not a number" in tools.refuse("quotas", "set", "user=ann", "--set", "request_percentage=half", code=2)
    assert "producer_rate" in tools.refuse("quotas", "set", "user=ann", "--set", "producer_rate=1")
    for entity in (("user",), ("user=ann", "client-id=app")):
        tools.say("quotas", "delete", *entity, "--yes")
    assert tools.tell("quotas", "list") == []
    assert "has no quotas" in tools.refuse("quotas", "delete", "user=ann", "--yes")


def test_a_user(tools: Tools, ann: Tools) -> None:
    """May log in with the newest password alone, and no longer when it is deleted; passwords are shown nowhere."""
    assert ann.tell("cluster", "info")["topics"] == 0
    (tools.home / "ann.secret").write_text("another\n")
    tools.say("credentials", "add", "ann", "--new-password-file", str(tools.home / "ann.secret"))
    assert ann.tell("cluster", "info")["topics"] == 0
    (tools.home / "ann.secret").write_text("open-sesame\n")
    refused = ann.refuse("cluster", "info")
    assert "no connection with SASL_PLAINTEXT" in refused
    assert "open-sesame" not in refused

    assert tools.tell("credentials", "list") == [{"user": "ann", "mechanisms": {"SCRAM-SHA-512": 8192}}]
    tools.say("credentials", "delete", "ann", "--yes")
    assert tools.tell("credentials", "list") == []


def test_clients_metrics(tools: Tools) -> None:
    """A subscription is made by its configs, shown, and gone when they are taken back."""
    tools.say("configs", "alter", "client-metrics", "slow", "--set", "interval.ms=1min", "--set", "metrics=*")
    changed = tools.tell("configs", "show", "client-metrics", "slow", "--changed")
    assert {one["key"]: one["value"] for one in changed} == {"interval.ms": "60000", "metrics": "*"}
    assert {one["source"] for one in changed} == {"DYNAMIC_CLIENT_METRICS_CONFIG"}
    tools.say("configs", "alter", "client-metrics", "slow", "--unset", "interval.ms", "--unset", "metrics")
    assert tools.tell("configs", "show", "client-metrics", "slow", "--changed") == []


def _named(text: str) -> str:
    """An error's name as Kafka writes it, whichever way the client does."""
    return text.upper().replace("INVALIDREQUEST", "INVALID_REQUEST")
