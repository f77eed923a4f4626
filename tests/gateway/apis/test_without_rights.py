"""Every API that is served, asked by a principal without any right: nothing changes, and nothing is told.

The APIs are found by looking, so one that is new is asked, too. It fails here if its handler does not ask for rights
(`RequestContext.may`, `.has`, `.require`, `.allowed`) before it looks anything up: see the recipe "A new API of Kafka"
in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final
from uuid import UUID

import pytest

from gateway.apis import discover
from gateway.broker import Broker
from gateway.dispatch.registry import Api
from gateway.security.rights import Rights
from gateway.wire.codec import request_codec
from gateway.wire.message import Message
from gateway.wire.schema import FieldSpec, StructSpec
from tests.gateway.apis.harness import NOW, Admin, admin_of
from tests.gateway.apis.test_error_responses import codes
from tests.gateway.harness import Client
from tests.gateway.security.harness import ADMIN, WITH_RIGHTS, come_as
from tests.likeness.asking import plain

pytestmark = pytest.mark.slow

SECRET: Final = "secret-thing"
ABSENT: Final = "absent-thing"  # as long as the other
TOPIC: Final = 2
UNSUPPORTED_VERSION: Final = 35

NEED_NO_RIGHT: Final = frozenset(
    (
        *("ApiVersions", "SaslHandshake", "SaslAuthenticate"),  # before anybody is known
        *("GetTelemetrySubscriptions", "PushTelemetry"),  # Kafka asks for none
        # What a connection without authentication may not do at all, as in Kafka.
        *("CreateDelegationToken", "RenewDelegationToken", "ExpireDelegationToken", "DescribeDelegationToken"),
    )
)
"""APIs that everybody may use."""


def request_of(struct: StructSpec, name: str | None, topic_id: UUID | None) -> dict[str, Any]:
    """A request with one element in each list, that names the same thing everywhere, or means it by its id."""
    return {
        field.name: [_value(field, name, topic_id)] if field.is_array else _value(field, name, topic_id)
        for field in struct.fields
        if field.tag is None and not (field.is_array and "filter" in field.name)  # a filter leaves out by itself
    }


def _value(field: FieldSpec, name: str | None, topic_id: UUID | None) -> Any:
    if field.struct is not None:
        nothing = field.nullable and not field.is_array
        return None if nothing else request_of(field.struct, name, topic_id)
    match field.kind:
        case "string":
            return name if name is not None else None if field.nullable and not field.is_array else ABSENT
        case "bytes" | "records":
            return b""
        case "uuid":
            return topic_id
        case "bool":
            return field.name.startswith("include_")
        case _:
            special = {"acks": 1, "resource_type": TOPIC, "replica_id": -1, "session_epoch": -1}
            return special.get(field.name, field.default if isinstance(field.default, int) else 0)


def state_of(broker: Broker) -> Any:
    """All that a request could change, but for what a client may leave behind that only joins or asks."""
    store = broker.store
    tables = {name: dict(store.home.table(name).entries) for name in ("acls", "brokerconfig", "resourceconfig")}
    streams = {
        stream.name: (
            stream.uuid,
            dict(stream.config),
            [(slot.start, slot.end) for slot in map(stream.slot, range(stream.slot_count))],
        )
        for stream in store.streams
    }

    def offsets_of(group_id: str) -> Collection[object]:
        return broker.groups.of(group_id).offsets.of_group(group_id).keys()

    groups = {group.group_id: (group.state, group.member_count, offsets_of(group.group_id)) for group in broker.groups}
    transactions = {known.transactional_id: (known.state, known.epoch) for known in broker.transactions}
    return tables, streams, groups, transactions


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A broker that keeps a topic, a group, a transactional id and configs; the client of `Admin` is a stranger."""
    with admin_of(tmp_path_factory.mktemp("broker"), *WITH_RIGHTS) as stranger:
        client = stranger.run(Client.connect(stranger.broker))
        stranger.run(client.ask(18, 0, {}))
        come_as(stranger.broker, client._writer.get_extra_info("sockname")[1], ADMIN)
        strangers, stranger._client = stranger._client, client
        stranger.create(2, name=SECRET, retention_ms="3600000")
        stranger.produce(SECRET, NOW)
        offsets = [{"partition_index": 0, "committed_offset": 1, "committed_metadata": "x"}]
        stranger.ask(
            "OffsetCommit",
            5,
            group_id=SECRET,
            generation_id_or_member_epoch=-1,
            member_id="",
            retention_time=-1,
            topics=[{"name": SECRET, "partitions": offsets}],
        )
        stranger.ask("InitProducerId", 2, transactional_id=SECRET, transaction_timeout=60_000)
        stranger._client = strangers
        yield stranger
        client.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often rights were asked for."""
    counted: Counter[str] = Counter()
    for question in ("may", "has", "has_some", "operations"):
        ask = getattr(Rights, question)

        def counting(*arguments: Any, ask: Any = ask, question: str = question) -> Any:
            counted[question] += 1
            return ask(*arguments)

        monkeypatch.setattr(Rights, question, counting)
    return counted


def told(answer: Message) -> str:
    return json.dumps(plain(answer), default=str)


@pytest.mark.parametrize("api", discover(), ids=lambda api: api.name)
def test_nothing_is_changed_or_told(secret: Admin, asked: Counter[str], api: Api) -> None:
    """What exists and what does not are answered alike, rights are asked for, and all stays as it was."""
    before = state_of(secret.broker)
    for version in api.versions:
        struct = request_codec(api.key, version).struct
        asked.clear()
        answers = [secret.ask(api.name, version, **request_of(struct, name, None)) for name in (SECRET, ABSENT)]
        secret.ask(api.name, version, **request_of(struct, None, secret.stream(SECRET).uuid))

        if api.name not in NEED_NO_RIGHT:
            is_served = set(codes(answers[0])) != {UNSUPPORTED_VERSION}
            assert asked or not is_served, f"{api.name} v{version} answers without asking for rights"
            there, absent = (told(answer) for answer in answers)
            assert there.replace(SECRET, ABSENT) == absent, f"{api.name} v{version} tells what exists"
        assert state_of(secret.broker) == before, f"{api.name} v{version} changed something"


@pytest.mark.parametrize("api", discover(), ids=lambda api: api.name)
def test_an_id_tells_no_name(secret: Admin, api: Api) -> None:
    """Who knows a topic's id only learns neither its name nor what is in it, and changes nothing."""
    before, topic_id = state_of(secret.broker), secret.stream(SECRET).uuid
    for version in api.versions:
        struct = request_codec(api.key, version).struct
        answer = secret.ask(api.name, version, **request_of(struct, None, topic_id))

        assert SECRET not in told(answer), f"{api.name} v{version}"
        assert state_of(secret.broker) == before, f"{api.name} v{version} changed something"


def test_lists_are_empty(secret: Admin) -> None:
    """Lists of everything leave out what may not be seen, without an error."""
    assert secret.ask("Metadata", 12, topics=None).topics == []
    assert secret.ask("DescribeTopicPartitions", 0, topics=[]).topics == []
    assert secret.ask("ListGroups", 5).groups == []
    assert secret.ask("ListTransactions", 1).transaction_states == []
    assert secret.ask("DescribeLogDirs", 2, topics=None).results == []


def test_the_secret_is_there(secret: Admin) -> None:
    """The tests above have something to find."""
    _, streams, groups, transactions = state_of(secret.broker)
    assert SECRET in streams
    assert SECRET in groups
    assert SECRET in transactions
