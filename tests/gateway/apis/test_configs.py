"""DescribeConfigs, AlterConfigs and IncrementalAlterConfigs, of topics and of the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.applied.tables import Put
from gateway.kafka_configs.topic_config import config_of
from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin, admin_of, code_and_message
from tests.likeness.ranges import OURS

pytestmark = pytest.mark.slow

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)

Outcome = tuple[int, str | None]


def describe(admin: Admin, kind: int, name: str, *keys: str, version: int = 4, **options: bool) -> Message:
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": list(keys) or None}
    (result,) = admin.ask("DescribeConfigs", version, resources=[resource], **options).results
    return result  # type: ignore[no-any-return]


def changes(kind: int, name: str, *operations: tuple[str, int, str | None]) -> dict[str, Any]:
    configs = [{"name": key, "config_operation": operation, "value": value} for key, operation, value in operations]
    return {"resource_type": kind, "resource_name": name, "configs": configs}


def alter(admin: Admin, *resources: dict[str, Any], validate_only: bool = False) -> list[Outcome]:
    answer = admin.ask("IncrementalAlterConfigs", 1, resources=list(resources), validate_only=validate_only)
    return [code_and_message(response) for response in answer.responses]


def change(admin: Admin, name: str, *operations: tuple[str, int, str | None]) -> Outcome:
    (outcome,) = alter(admin, changes(TOPIC, name, *operations))
    return outcome


def replace(admin: Admin, kind: int, name: str, validate_only: bool = False, **configs: str | None) -> Outcome:
    listed = [{"name": key.replace("_", "."), "value": value} for key, value in configs.items()]
    resource = {"resource_type": kind, "resource_name": name, "configs": listed}
    (response,) = admin.ask("AlterConfigs", 2, resources=[resource], validate_only=validate_only).responses
    return code_and_message(response)


# Describing


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_all_of_a_topic(admin: Admin, version: int) -> None:
    """Every documented config of a topic is described, in every version."""
    result = describe(admin, TOPIC, admin.create(retention_ms="5"), version=version)

    told = {c.name: (c.value, c.config_source, c.read_only, c.is_sensitive) for c in result.configs}
    assert (result.error_code, len(told)) == (0, 42)
    assert told["retention.ms"] == ("5", 1, False, False)
    assert told["max.message.bytes"] == ("1048588", 5, False, False)


def test_types_and_documentation(admin: Admin) -> None:
    """Types are described, and documentation on request."""
    name = admin.create()
    asked = describe(admin, TOPIC, name, "cleanup.policy", include_documentation=True).configs[0]
    silent = describe(admin, TOPIC, name, "cleanup.policy").configs[0]

    assert (asked.config_type, silent.config_type) == (7, 7)
    assert "compact" in asked.documentation
    assert silent.documentation is None


def test_synonyms(admin: Admin) -> None:
    """All synonyms of a config are listed on request, strongest first."""
    name = admin.create(max_message_bytes="77")
    asked = describe(admin, TOPIC, name, "max.message.bytes", include_synonyms=True).configs[0]
    silent = describe(admin, TOPIC, name, "max.message.bytes").configs[0]

    expected = [("max.message.bytes", "77", 1), ("message.max.bytes", "1048588", 5)]
    assert expected == [(s.name, s.value, s.source) for s in asked.synonyms]
    assert silent.synonyms == []


def test_some_keys(admin: Admin) -> None:
    """Only the named configs are described; unknown names are left out."""
    result = describe(admin, TOPIC, admin.create(), "segment.ms", "nope")

    assert [c.name for c in result.configs] == ["segment.ms"]


@pytest.mark.parametrize(
    ("kind", "name", "code", "why"),
    [
        (TOPIC, "missing", 3, ""),
        (
            TOPIC,
            "a b",
            17,
            "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, "
            "'.', '_' and '-'",
        ),
        (BROKER, "2", 42, "Unexpected broker id, expected 1 or empty string, but received 2"),
        (BROKER, "x", 42, "Broker id must be an integer, but it is: x"),
        (LOGGER, "", 42, "Broker id must not be empty"),
        (METRICS, "", 42, "Client metrics subscription name must not be empty"),
        (GROUP, "", 42, "Group name must not be empty"),
        (77, "x", 42, "Unsupported resource type: 77"),
    ],
)
def test_not_described(admin: Admin, kind: int, name: str, code: int, why: str) -> None:
    """Unknown resources are refused as Kafka refuses them."""
    assert (code, why) == code_and_message(describe(admin, kind, name))


@pytest.mark.parametrize(("kind", "count"), [(METRICS, 3), (GROUP, 17)])
def test_unheard_of(admin: Admin, kind: int, count: int) -> None:
    """A group or a metrics subscription that nobody configured has Kafka's keys, each with its default."""
    result = describe(admin, kind, "any")

    kafkas = [config for config in result.configs if not config.name.startswith(OURS)]
    assert (result.error_code, len(kafkas)) == (0, count)
    assert {config.config_source for config in result.configs} == {5}


def test_logger(admin: Admin) -> None:
    """The one logger has the level that the broker was started with."""
    (root,) = describe(admin, LOGGER, "1").configs

    assert (root.name, root.value, root.read_only, root.config_source) == ("root", "INFO", True, 6)


# Changing topics


def test_set_and_delete(admin: Admin) -> None:
    """SET overrides a default, in effect at once; DELETE goes back to it."""
    name = admin.create()
    assert change(admin, name, ("max.message.bytes", SET, "77")) == (0, None)
    assert config_of(admin.stream(name)).max_message_bytes == 77

    assert change(admin, name, ("max.message.bytes", DELETE, None), ("segment.ms", DELETE, None)) == (0, None)
    assert dict(admin.stream(name).config) == {}
    assert config_of(admin.stream(name)).max_message_bytes == 1_048_588


def test_append_and_subtract(admin: Admin) -> None:
    """APPEND and SUBTRACT work on lists, from the default on where nothing is set."""
    name = admin.create()
    steps = []
    for operation, value in (
        (APPEND, "compact"),
        (APPEND, "compact,delete"),
        (SUBTRACT, "delete"),
        (SUBTRACT, "compact"),
    ):
        assert change(admin, name, ("cleanup.policy", operation, value)) == (0, None)
        steps.append(admin.stream(name).config["cleanup.policy"])

    assert steps == ["delete,compact", "delete,compact", "compact", ""]


@pytest.mark.parametrize(
    ("operation", "code", "why"),
    [
        (("retention.ms", APPEND, "1"), 40, "Can't APPEND to key retention.ms because its type is not LIST."),
        (("nope", SUBTRACT, "1"), 40, "Can't SUBTRACT to key nope because its type is not LIST."),
        (("nope", SET, "1"), 40, "Unknown topic config name: nope"),
        (("retention.ms", SET, "x"), 40, "Invalid value x for configuration retention.ms: Not a number of type LONG"),
        (("retention.ms", SET, None), 42, "Null value not supported for : retention.ms"),
        (("cleanup.policy", APPEND, None), 42, "Null value not supported for : cleanup.policy"),
        (("retention.ms", 9, "1"), 42, "Unknown operations type 9"),
    ],
)
def test_bad_changes(admin: Admin, operation: tuple[str, int, str | None], code: int, why: str) -> None:
    """Impossible changes are refused, and nothing of that resource changes."""
    name = admin.create(segment_ms="5")

    assert (code, why) == change(admin, name, ("segment.ms", SET, "6"), operation)
    assert dict(admin.stream(name).config) == {"segment.ms": "5"}


def test_twice(admin: Admin) -> None:
    """A config, or a resource, that is there twice is refused."""
    name = admin.create()
    twice = change(admin, name, ("segment.ms", SET, "6"), ("segment.ms", SET, "7"))
    one = changes(TOPIC, name, ("segment.ms", SET, "6"))

    assert twice == (42, "Error due to duplicate config keys")
    assert alter(admin, one, one) == [(42, "Each resource must appear at most once.")] * 2


@pytest.mark.parametrize(
    ("kind", "name", "code", "why"),
    [
        (TOPIC, "missing", 3, "The topic 'missing' does not exist."),
        (TOPIC, "", 42, "Default topic resources are not allowed."),
        (64, "x", 42, "Unknown resource type 64"),
        (77, "x", 42, "Unknown resource type 77"),
        (BROKER, "2", 42, "Unexpected broker id, expected 1, but received 2"),
        (BROKER, "x", 42, "Node id must be an integer, but it is: x"),
    ],
)
def test_bad_resources(admin: Admin, kind: int, name: str, code: int, why: str) -> None:
    """Resources that cannot be configured are refused; the other resources of the request are changed."""
    good = admin.create()
    resources = [changes(kind, name, ("retention.ms", SET, "6")), changes(TOPIC, good, ("retention.ms", SET, "6"))]

    assert [(code, why), (0, None)] == alter(admin, *resources)
    assert dict(admin.stream(good).config) == {"retention.ms": "6"}


def test_validate_only(admin: Admin) -> None:
    """validate_only checks and changes nothing."""
    name = admin.create()
    good = alter(admin, changes(TOPIC, name, ("segment.ms", SET, "6")), validate_only=True)
    bad = alter(admin, changes(TOPIC, name, ("segment.ms", SET, "x")), validate_only=True)

    assert good + bad == [(0, None), (40, "Invalid value x for configuration segment.ms: Not a number of type LONG")]
    assert dict(admin.stream(name).config) == {}


def test_replaced(admin: Admin) -> None:
    """AlterConfigs sets the named configs and removes all others."""
    name = admin.create(segment_ms="5", retention_ms="6")

    assert replace(admin, TOPIC, name, validate_only=True, segment_ms="7") == (0, None)
    assert replace(admin, TOPIC, name, segment_ms="8") == (0, None)
    assert dict(admin.stream(name).config) == {"segment.ms": "8"}
    assert replace(admin, TOPIC, name, segment_ms=None) == (42, "Null value not supported for : segment.ms")
    assert replace(admin, TOPIC, name) == (0, None)
    assert dict(admin.stream(name).config) == {}


# Changing the broker


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Admin]:
    with admin_of(tmp_path) as admin:
        yield admin


def set_broker(admin: Admin, entity: str, **configs: str) -> Outcome:
    operations = [(key.replace("_", "."), SET, value) for key, value in configs.items()]
    (outcome,) = alter(admin, changes(BROKER, entity, *operations))
    return outcome


def test_defaults_of_topics(own: Admin) -> None:
    """A topic without an override follows the broker: this node's config before the cluster's."""
    name = own.create()
    followed = []
    for entity, value in (("", "1000"), ("1", "2000")):
        assert set_broker(own, entity, log_retention_ms=value) == (0, None)
        followed.append(config_of(own.stream(name)).retention_ms)

    assert followed == [1000, 2000]
    assert own.configs(name, "retention.ms") == {"retention.ms": "2000"}


def test_layers_are_told(own: Admin) -> None:
    """DescribeConfigs of a topic lists every layer that sets a config, and the strongest as source."""
    name = own.create()
    set_broker(own, "", message_max_bytes="1000")
    set_broker(own, "1", message_max_bytes="2000")
    (config,) = describe(own, TOPIC, name, "max.message.bytes", include_synonyms=True).configs

    assert (config.value, config.config_source) == ("2000", 2)
    expected = [("2000", 2), ("1000", 3), ("1048588", 5)]
    assert expected == [(s.value, s.source) for s in config.synonyms]


def test_retention_without_end(own: Admin) -> None:
    """Any negative log.retention.ms means for ever."""
    name = own.create()
    set_broker(own, "1", log_retention_ms="-5")

    assert own.configs(name, "retention.ms") == {"retention.ms": "-1"}
    assert own.stream(name).policy.retention_ms == -1


def test_broker_configs_survive_a_restart(own: Admin) -> None:
    """Configs set at run time are in effect again after a restart, before anything is served."""
    name = own.create()
    set_broker(own, "", message_max_bytes="1000", log_retention_ms="77")
    own.restart()

    assert config_of(own.stream(name)).max_message_bytes == 1000
    told = {c.name: (c.value, c.config_source) for c in describe(own, BROKER, "").configs}
    assert told == {"log.retention.ms": ("77", 3), "message.max.bytes": ("1000", 3)}


def test_broker_configs_are_removed(own: Admin) -> None:
    """DELETE, or a replacement that does not name it, takes a config away."""
    set_broker(own, "", message_max_bytes="1000", log_retention_ms="77")
    alter(own, changes(BROKER, "", ("message.max.bytes", DELETE, None)))
    assert [c.name for c in describe(own, BROKER, "").configs] == ["log.retention.ms"]

    assert replace(own, BROKER, "") == (0, None)
    assert describe(own, BROKER, "").configs == []


@pytest.mark.parametrize(
    ("configs", "code", "why"),
    [
        ({"num_partitions": "3"}, 42, "Cannot update these configs dynamically: [num.partitions]"),
        (
            {"message_max_bytes": "-5"},
            42,
            "Invalid value -5 for configuration message.max.bytes: Value must be at least 0",
        ),
        (
            {"log_retention_ms": "x"},
            42,
            "Invalid value x for configuration log.retention.ms: Not a number of type LONG",
        ),
        (
            {"log_cleaner_min_compaction_lag_ms": "10", "log_cleaner_max_compaction_lag_ms": "5"},
            42,
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)",
        ),
    ],
)
def test_refused_for_the_broker(own: Admin, configs: dict[str, str], code: int, why: str) -> None:
    """Read-only configs and bad values are INVALID_REQUEST, as Kafka's brokers say."""
    assert (code, why) == set_broker(own, "1", **configs)
    assert (code, why) == replace(own, BROKER, "1", **configs)
    assert own.broker.topics.configs.current("1") == {}


def test_lists_of_the_broker(own: Admin) -> None:
    """APPEND works on the broker's lists, and is refused elsewhere in Kafka's words."""
    good, bad = alter(
        own,
        changes(BROKER, "", ("log.cleanup.policy", APPEND, "compact")),
        changes(BROKER, "1", ("log.retention.ms", APPEND, "5")),
    )

    assert good == (0, None)
    assert bad == (40, "Config value append is not allowed for config key: log.retention.ms")
    assert own.broker.topics.configs.current("") == {"log.cleanup.policy": "delete,compact"}


def test_unknown_to_the_broker(own: Admin) -> None:
    """As Kafka, a broker keeps configs that it does not know, but not without bound."""
    assert set_broker(own, "", nope_x="3") == (0, None)
    assert set_broker(own, "", **{f"nope_{number}": "3" for number in range(1_001)}) == (
        42,
        "No more than 1000 configs can be set for a broker",
    )


def test_unknown_configs_are_secret(own: Admin) -> None:
    """As in Kafka, a config that the broker does not know may be a password, and its value is not shown."""
    set_broker(own, "", nope_x="secret")
    (config,) = describe(own, BROKER, "", include_synonyms=True).configs

    assert (config.name, config.value, config.is_sensitive) == ("nope.x", None, True)
    assert [synonym.value for synonym in config.synonyms] == [None]


def test_long_names(admin: Admin) -> None:
    """A name as long as the protocol allows is refused in few words."""
    code, why = change(admin, admin.create(), ("x" * 32_000, SET, "1"))

    assert code == 40
    assert why is not None
    assert len(why) == 1_000


def test_all_of_the_broker(admin: Admin) -> None:
    """This node's description has every key: ours, Kafka's defaults of topics, what may change and what not."""
    result = describe(admin, BROKER, "1", include_documentation=True, include_synonyms=True)
    told = {c.name: c for c in result.configs}

    assert (told["node.id"].value, told["node.id"].read_only, told["node.id"].config_type) == ("1", True, 3)
    assert (told["num.partitions"].value, told["num.partitions"].read_only) == ("16", True)
    assert (told["log.retention.ms"].value, told["log.retention.ms"].read_only) == (None, False)
    assert [(s.name, s.value) for s in told["log.retention.hours"].synonyms] == [("log.retention.hours", "168")]
    assert "no effect" in told["log.segment.bytes"].documentation
    assert all(config.documentation for config in result.configs)


def test_given_at_start(tmp_path: Path) -> None:
    """Values given at the start are described as static."""
    with admin_of(tmp_path, "message.max.bytes=5000", "log.retention.hours=1") as admin:
        (broker,) = describe(admin, BROKER, "1", "message.max.bytes").configs
        name = admin.create()
        (topic,) = describe(admin, TOPIC, name, "max.message.bytes").configs

        assert [(c.value, c.config_source) for c in (broker, topic)] == [("5000", 4)] * 2
        assert admin.configs(name, "retention.ms") == {"retention.ms": "3600000"}


def test_list_resources(admin: Admin) -> None:
    """ListConfigResources names what can be described; v0 knows client metrics only, of which there are none."""
    name = admin.create()
    everything = admin.ask("ListConfigResources", 1, resource_types=[]).config_resources
    topics = admin.ask("ListConfigResources", 1, resource_types=[TOPIC]).config_resources

    found = {(r.resource_type, r.resource_name) for r in everything}
    assert {(TOPIC, name), (BROKER, "1"), (LOGGER, "1")} <= found
    assert {TOPIC} == {r.resource_type for r in topics}
    assert admin.ask("ListConfigResources", 0).config_resources == []
    assert admin.ask("ListConfigResources", 1, resource_types=[77]).error_code == 35


def test_what_tools_read(admin: Admin) -> None:
    """Broker keys that tools read are answered with Penstock's equivalents."""
    result = describe(admin, BROKER, "1")
    values = {config.name: config.value for config in result.configs}
    address = values["advertised.listeners"].removeprefix("PLAINTEXT://")

    assert {
        "process.roles": "broker,controller",
        "controller.quorum.voters": f"1@{address}",
        "group.coordinator.rebalance.protocols": "classic,consumer,streams",
        "offsets.topic.num.partitions": "50",
        "transaction.state.log.replication.factor": "1",
        "sasl.enabled.mechanisms": "",
        "authorizer.class.name": "",
        "broker.rack": None,
        "inter.broker.listener.name": None,
        "log.dir": values["data.dir"],
        "group.consumer.session.timeout.ms": "45000",
    }.items() <= values.items()
    assert {"PLAINTEXT:PLAINTEXT"} <= set(values["listener.security.protocol.map"].split(","))


def test_no_time_at_all(own: Admin) -> None:
    """A broker's retention of nothing is refused, at run time as at the start; a topic may have it, as in Kafka."""
    why = "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1"

    assert [set_broker(own, entity, log_retention_ms="0") for entity in ("", "1")] == [(42, why)] * 2
    assert set_broker(own, "", log_retention_ms="-5") == (0, None)
    assert config_of(own.stream(own.create(retention_ms="0"))).retention_ms == 0


def test_threads_of_the_cleaner(own: Admin) -> None:
    """Kafka's conditions between keys hold for keys without an effect too."""
    why = "requirement failed: log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread."

    assert set_broker(own, "", log_cleaner_threads="128") == (42, why)
    assert set_broker(own, "", log_cleaner_threads="128", log_cleaner_dedupe_buffer_size="200000000") == (0, None)
    assert set_broker(own, "1", log_cleaner_threads="500") == (42, why)


def test_stored_before_it_was_refused(own: Admin) -> None:
    """A broker's config that an earlier release took is left out, and the start goes on."""
    stored = [Put("brokerconfig", b"\0log.retention.ms", b"0"), Put("brokerconfig", b"1\0ssl.client.auth", b"required")]
    own.run(own.broker.store.update(*stored))
    own.restart()

    assert config_of(own.stream(own.create())).retention_ms == 604_800_000
    assert set_broker(own, "", log_retention_ms="7") == (0, None)
    own.restart()
    assert config_of(own.stream(own.create())).retention_ms == 7
