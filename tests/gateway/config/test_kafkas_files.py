"""What Kafka's users type first: `server.properties`, Kafka's own names, units."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.kafka_names import HINTS
from gateway.config.layers import ConfigError
from gateway.config.loading import FIELDS, left_out_of, load

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
    assert set(left_out_of(file)) == {"process.roles", "controller.listener.names", "socket.send.buffer.bytes"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("log.dirs=/a,/b", "one directory"),
        ("ssl.made.up=x", "no such key of security"),
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


@pytest.mark.parametrize("key", sorted(HINTS))
def test_kafkas_names(key: str) -> None:
    """A name of Kafka's that Penstock lacks is answered by name, and no hint is about a key that it has."""
    assert key not in FIELDS
    with pytest.raises(ConfigError) as refused:
        load(environ={}, assignments=[f"{key}=1"])
    assert HINTS[key] in str(refused.value)
    assert "nearest known key" not in str(refused.value)


def test_units() -> None:
    """Sizes and times may have units, from every source; a unit of another kind is refused by name."""
    environ = {"PENSTOCK_LOG_CACHE_BYTES": "256MiB"}
    config = load(environ=environ, assignments=["log.retention.ms=7d", "log.retention.hours=2d"])

    assert (config.log_cache_bytes, config.log_retention_ms, config.log_retention_hours) == (2**28, 604_800_000, 48)
    with pytest.raises(ConfigError, match="a size is a number with B, KiB"):
        load(environ={}, assignments=["log.cache.bytes=3d"])
