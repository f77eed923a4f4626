"""What Kafka's users type first: `server.properties`, Kafka's own names, units."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.kafka_names import HINTS, hint_of, of_kafkas_image
from gateway.config.layers import ConfigError
from gateway.config.loading import FIELDS, left_out_of, load
from tests.likeness.ranges import RANGES

pytestmark = pytest.mark.slow

KAFKAS_KEYS = frozenset(json.loads(RANGES.read_text())["names"])
"""All keys of a broker, as a real one knows them."""
OF_EARLIER_RELEASES = (
    *("zookeeper.connect", "zookeeper.connection.timeout.ms", "zookeeper.session.timeout.ms", "zookeeper.set.acl"),
    *("zookeeper.ssl.keystore.password", "zookeeper.max.in.flight.requests", "broker.id.generation.enable", "port"),
    *("reserved.broker.max.id", "host.name", "advertised.host.name", "advertised.port", "password.encoder.secret"),
    *("inter.broker.protocol.version", "log.message.format.version", "log.message.timestamp.difference.max.ms"),
    *("log.message.downconversion.enable", "offsets.commit.required.acks", "auto.include.jmx.reporter"),
    *("delegation.token.master.key", "controller.quorum.voters", "confluent.license.topic", "replica.lag.max.messages"),
)
NAMED = re.compile(r"(?<![\w.{:])(?:[a-z0-9]+\.)+[a-z0-9]+(?![\w.])")
KEYS_OF_TOPICS = frozenset(
    {"cleanup.policy", "delete.retention.ms", "min.compaction.lag.ms", "max.compaction.lag.ms"}
    | {"min.cleanable.dirty.ratio"}
)
UNDERSTOOD = [
    ("node.id", "7", "node_id", 7),
    ("num.partitions", "3", "num_partitions", 3),
    ("default.replication.factor", "3", "default_replication_factor", 3),
    ("auto.create.topics.enable", "false", "auto_create_topics_enable", False),
    ("delete.topic.enable", "false", "delete_topic_enable", False),
    ("message.max.bytes", "2MiB", "message_max_bytes", 2**21),
    ("log.retention.hours", "168", "log_retention_hours", 168),
    ("log.retention.minutes", "90", "log_retention_minutes", 90),
    ("log.retention.ms", "7d", "log_retention_ms", 604_800_000),
    ("log.retention.bytes", "10GiB", "log_retention_bytes", 10 * 2**30),
    ("log.retention.check.interval.ms", "5min", "log_retention_check_interval_ms", 300_000),
    ("socket.request.max.bytes", "100MiB", "socket_request_max_bytes", 100 * 2**20),
    ("connections.max.idle.ms", "10min", "connections_max_idle_ms", 600_000),
    ("max.connections.per.ip", "50", "max_connections_per_ip", 50),
    ("group.initial.rebalance.delay.ms", "3s", "group_initial_rebalance_delay_ms", 3_000),
    ("group.max.session.timeout.ms", "30min", "group_max_session_timeout_ms", 1_800_000),
    ("offsets.retention.minutes", "7d", "offsets_retention_minutes", 10_080),
    ("transactional.id.expiration.ms", "7d", "transactional_id_expiration_ms", 604_800_000),
    ("transaction.max.timeout.ms", "15min", "transaction_max_timeout_ms", 900_000),
]
KAFKAS = """
# as Kafka has it
process.roles=broker,controller
node.id=3
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://:9192,CONTROLLER://:9193
advertised.listeners=PLAINTEXT://kafka.example:9292
log.dirs=/var/lib/kafka
num.partitions : 3
log.retention.hours 24
! a comment too
socket.send.buffer.bytes=\\
   102400
"""


def test_server_properties(tmp_path: Path) -> None:
    """A file of Kafka's is read: its names are translated, what has no effect is named."""
    file = tmp_path / "server.properties"
    file.write_text(KAFKAS)

    config = load(file, environ={})

    (listener,), (told,) = config.listeners, config.advertised_listeners
    assert (listener.port, told.host, told.port) == (9192, "kafka.example", 9292)
    assert (config.node_id, str(config.data_dir), config.num_partitions) == (3, "/var/lib/kafka", 3)
    assert config.log_retention_hours == 24
    assert left_out_of(file) == [
        "without effect here: process.roles: Penstock is one process without roles",
        "without effect here: controller.listener.names: Penstock needs no controllers",
        "without effect here: socket.send.buffer.bytes: the operating system sizes the buffers of sockets",
    ]


def test_several_disks(tmp_path: Path) -> None:
    """Kafka's directories become Penstock's; the first is that of the process."""
    file = tmp_path / "server.properties"
    file.write_text("log.dirs = /a, /b\nlog.dir=/c\n")

    config = load(file, environ={})

    assert (str(config.data_dir), [str(place) for place in config.data_dirs]) == ("/a", ["/a", "/b"])
    assert len(left_out_of(file)) == 1


def test_what_closes_nothing(tmp_path: Path) -> None:
    """Keys of security that are about the brokers' own connections are left out: nothing is more open without them."""
    file = tmp_path / "server.properties"
    file.write_text("security.inter.broker.protocol=SASL_PLAINTEXT\nsasl.mechanism.inter.broker.protocol=PLAIN\n")

    assert load(file, environ={}).source_of("node.id") == "default"
    assert [line.split(": ")[1] for line in left_out_of(file)] == [
        "security.inter.broker.protocol",
        "sasl.mechanism.inter.broker.protocol",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ssl.made.up=x", "no such key of security"),
        ("ssl.keystore.password=x", "Penstock reads PEM"),
        ("sasl.kerberos.service.name=kafka", "no Kerberos"),
        ("principal.builder.class=a.B", "ssl.principal.mapping.rules"),
        ("listeners=PLAINTEXT://:9092", "listens on every interface"),
        ("num.partitions=many", "allowed: int"),
    ],
)
def test_wrong_properties(tmp_path: Path, text: str, why: str) -> None:
    """What cannot be kept of such a file is refused: security, a second directory, an address that is none."""
    file = tmp_path / "server.properties"
    file.write_text(f"{text}\n")

    with pytest.raises(ConfigError) as refused:
        load(file, environ={})
    assert why in str(refused.value)


@given(st.text(max_size=80))
def test_any_properties(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is read or refused."""
    file = tmp_path_factory.getbasetemp() / "any.properties"
    file.write_bytes(text.encode(errors="replace"))
    with contextlib.suppress(ConfigError):
        assert load(file, environ={}).source_of("data.dir")


@pytest.mark.parametrize("key", sorted({*KAFKAS_KEYS, *OF_EARLIER_RELEASES, *HINTS} - FIELDS.keys()))
def test_kafkas_names(key: str) -> None:
    """Every name of Kafka's that Penstock lacks is answered by name, and what may be a secret is not shown."""
    with pytest.raises(ConfigError) as refused:
        load(environ={}, assignments=[f"{key}=what-it-was"])

    (problem,) = refused.value.problems
    assert problem.startswith(f"unknown key {key} = ")
    assert "nearest known key" not in problem
    assert "what-it-was" not in problem or not any(
        word in key for word in ("password", "secret", "passphrase", "master")
    )


def test_no_hint_is_about_a_key_that_is_there() -> None:
    """What Penstock has is not explained away, and a hint names only keys that it has."""
    assert not HINTS.keys() & FIELDS.keys()
    for key in KAFKAS_KEYS:
        hint = "" if key in FIELDS else hint_of(key) or ""
        named = {word for word in NAMED.findall(hint) if word not in KEYS_OF_TOPICS}
        assert named <= FIELDS.keys(), (key, hint)


@pytest.mark.parametrize(("key", "value", "attribute", "meaning"), UNDERSTOOD)
def test_what_is_understood(key: str, value: str, attribute: str, meaning: object) -> None:
    """What people set first of Kafka's keys means here what it means there."""
    assert getattr(load(environ={}, assignments=[f"{key}={value}"]), attribute) == meaning


def test_variables_of_kafkas_image() -> None:
    """What people of Kafka's image are used to is told, where Penstock has the key; anything else is not ours."""
    environ = {"KAFKA_ADVERTISED_LISTENERS": "x", "KAFKA_OPTS": "-Xmx1g", "KAFKA_NODE_ID": "1", "PENSTOCK_NODE_ID": "1"}

    assert of_kafkas_image(environ, FIELDS) == [
        "KAFKA_ADVERTISED_LISTENERS has no effect here: the variable is PENSTOCK_ADVERTISED_LISTENERS"
    ]


def test_units() -> None:
    """Sizes and times may have units, from every source; a unit of another kind is refused by name."""
    environ = {"PENSTOCK_LOG_CACHE_BYTES": "256MiB"}
    config = load(environ=environ, assignments=["log.retention.ms=7d", "log.retention.hours=2d"])

    assert (config.log_cache_bytes, config.log_retention_ms, config.log_retention_hours) == (2**28, 604_800_000, 48)
    with pytest.raises(ConfigError, match="a size is a number with B, KiB"):
        load(environ={}, assignments=["log.cache.bytes=3d"])
