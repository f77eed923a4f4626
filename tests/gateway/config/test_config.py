"""Configuration: each source, their order, and the message for each mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import StoreConfig, SyncMode
from gateway.config.layers import ConfigError, Given, environment_layer
from gateway.config.loading import FIELDS, Config, describe, load
from gateway.config.machine import default_cache_bytes
from gateway.config.tiering import Bucket, Directory
from gateway.kafka_configs.broker_keys import broker_keys
from gateway.kafka_configs.keys import ConfigType


def loaded(
    tmp_path: Path,
    toml: str = "",
    environ: dict[str, str] | None = None,
    assignments: tuple[str, ...] = (),
    flags: dict[str, Given] | None = None,
) -> Config:
    file = tmp_path / "penstock.toml"
    file.write_text(toml)
    return load(file, environ or {}, assignments, flags)


def row(config: Config, key: str) -> dict[str, object]:
    return next(row for row in describe(config) if row["key"] == key)


def refusal(*assignments: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, environ or {}, assignments)
    return str(caught.value)


class TestSources:
    def test_defaults(self) -> None:
        """Without any source every key has its default, and says so."""
        config = load(None, {})

        assert config.num_partitions == 16
        assert {row["source"] for row in describe(config)} == {"default"}

    @pytest.mark.parametrize(
        "toml",
        [
            'log.sync.mode = "interval"',
            '"log.sync.mode" = "interval"',
            '[log.sync]\nmode = "interval"',
            '[log]\n"sync.mode" = "interval"',
            'log = { sync = { mode = "interval" } }',
        ],
        ids=["dotted", "quoted", "table", "quoted in a table", "inline tables"],
    )
    def test_every_spelling_of_a_key_in_the_file(self, tmp_path: Path, toml: str) -> None:
        """Dotted keys, quoted keys and tables are one and the same."""
        config = loaded(tmp_path, toml)

        assert config.log_sync_mode == "interval"
        assert row(config, "log.sync.mode")["source"] == f"file {tmp_path / 'penstock.toml'}"

    def test_keys_that_begin_other_keys(self, tmp_path: Path) -> None:
        """Kafka's `max.connections` and `max.connections.per.ip` stand side by side, unquoted."""
        config = loaded(tmp_path, "max.connections = 7\nmax.connections.per.ip = 3\n")

        assert (config.max_connections, config.max_connections_per_ip) == (7, 3)

    def test_environment(self) -> None:
        """A key is upper case with underscores in the environment."""
        config = load(None, {"PENSTOCK_LOG_SYNC_MODE": "interval", "HOME": "/root"})

        assert config.log_sync_mode == "interval"
        assert row(config, "log.sync.mode")["source"] == "environment PENSTOCK_LOG_SYNC_MODE"

    def test_order(self, tmp_path: Path) -> None:
        """Defaults < file < environment < --set < flags with a name of their own."""
        toml = "num.partitions = 2\nnode.id = 2\ngroup.max.size = 2\nhttp.listen = 'off'"
        environ = {"PENSTOCK_NODE_ID": "3", "PENSTOCK_GROUP_MAX_SIZE": "3"}
        flags = {"http.listen": Given("127.0.0.1:5", "--http")}

        config = loaded(tmp_path, toml, environ, ("group.max.size=4", "http.listen=[::1]:4"), flags)

        assert (config.num_partitions, config.node_id, config.group_max_size) == (2, 3, 4)
        assert str(config.http_listen) == "127.0.0.1:5"

    def test_service_links_are_no_configuration(self) -> None:
        """The variables that Kubernetes sets for a service named penstock are left alone."""
        links = {
            "PENSTOCK_SERVICE_HOST": "10.0.0.1",
            "PENSTOCK_SERVICE_PORT": "9092",
            "PENSTOCK_SERVICE_PORT_KAFKA": "9092",
            "PENSTOCK_PORT": "tcp://10.0.0.1:9092",
            "PENSTOCK_PORT_9092_TCP": "tcp://10.0.0.1:9092",
            "PENSTOCK_PORT_9092_TCP_PROTO": "tcp",
            "PENSTOCK_HEADLESS_SERVICE_HOST": "10.0.0.2",
        }

        assert environment_layer(links) == {}

    def test_every_key_can_come_from_the_environment(self) -> None:
        """No key's environment name is taken for a service link, and each leads back to its key."""
        environ = {f"PENSTOCK_{key.upper().replace('.', '_')}": "x" for key in FIELDS}

        assert set(environment_layer(environ)) == set(FIELDS)


class TestValues:
    def test_lists_from_text_and_from_toml(self, tmp_path: Path) -> None:
        """A list is written with commas, or as TOML's own."""
        text = load(None, {"PENSTOCK_LISTENERS": "localhost:1, [::1]:2=example.org:3"})
        toml = loaded(tmp_path, 'listeners = ["localhost:1", "[::1]:2=example.org:3"]')

        assert text.listeners == toml.listeners
        assert row(text, "listeners")["value"] == ["localhost:1", "[::1]:2=example.org:3"]

    def test_http_off(self) -> None:
        """`off` is a value like any other, and shown as it was given."""
        config = load(None, {}, ["http.listen=off"])

        assert config.http_listen is None
        assert row(config, "http.listen")["value"] == "off"

    @pytest.mark.parametrize(
        ("assignments", "milliseconds"),
        [
            ((), 168 * 3_600_000),
            (("log.retention.hours=1",), 3_600_000),
            (("log.retention.hours=1", "log.retention.minutes=2"), 120_000),
            (("log.retention.minutes=2", "log.retention.ms=3"), 3),
            (("log.retention.hours=-1",), -1),
            (("log.retention.ms=-1", "log.retention.hours=1"), -1),
        ],
    )
    def test_retention_precedence(self, assignments: tuple[str, ...], milliseconds: int) -> None:
        """Milliseconds win over minutes, minutes over hours; -1 is for ever."""
        assert load(None, {}, assignments).retention_ms == milliseconds

    def test_the_store_gets_its_part(self) -> None:
        """The store's own configuration follows the keys."""
        config = load(None, {}, ["log.sync.mode=interval", "log.cache.bytes=5242880"])

        assert config.store_config().sync_mode is SyncMode.INTERVAL
        assert config.store_config().cache_bytes == 5_242_880

    def test_defaults_agree_with_the_store(self) -> None:
        """The store's defaults are the ones that are documented here; the cache follows the machine."""
        assert Config().store_config() == replace(StoreConfig(), cache_bytes=default_cache_bytes())

    def test_a_config_never_changes(self) -> None:
        """Nobody can set a key behind the others' backs."""
        with pytest.raises(ValueError, match="frozen"):
            Config().num_partitions = 3  # type: ignore[misc]


class TestLongTermStorage:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("s3://bucket", Bucket("bucket", "")),
            ("s3://bucket/", Bucket("bucket", "")),
            ("s3://bucket/a/prefix/", Bucket("bucket", "a/prefix")),
            ("file:/var/lib/objects", Directory(Path("/var/lib/objects"))),
            ("file:///var/lib/objects", Directory(Path("/var/lib/objects"))),
            ("file:objects", Directory(Path("objects"))),
            ("FILE", Directory()),
            ("OFF", "off"),
        ],
    )
    def test_places(self, text: str, place: object) -> None:
        """A bucket with a prefix or without, a directory, nowhere."""
        assert load(None, {}, [f"tier2={text}"]).tier2 == place

    def test_default(self) -> None:
        """Objects lie in the data directory unless another place is named."""
        config = load(None, {}, ["data.dir=/somewhere"])

        assert isinstance(config.tier2, Directory)
        assert config.tier2.below(config.data_dir) == Path("/somewhere/tier2")

    def test_places_can_be_given_back(self) -> None:
        """A place is shown as it is given."""
        for text in ("s3://bucket", "s3://bucket/a/prefix", "file:/var/lib/objects", "file", "off"):
            assert row(load(None, {}, [f"tier2={text}"]), "tier2")["value"] == text

    def test_secrets_are_hidden(self) -> None:
        """No listing, no repr and no text of a configuration shows a key or a secret."""
        environ = {"PENSTOCK_TIER2_ACCESS_KEY": "me-myself", "PENSTOCK_TIER2_SECRET_KEY": "hunter2"}
        config = load(None, environ, ["tier2=s3://bucket"])

        shown = f"{config!r} {config} {describe(config)} {broker_keys(config)}"

        assert "hunter2" not in shown
        assert "me-myself" not in shown
        assert row(config, "tier2.secret.key")["value"] == "[hidden]"

    def test_clients_are_not_told_secrets(self) -> None:
        """DescribeConfigs has a type of its own for them, whose values it leaves out."""
        assert broker_keys(Config())["tier2.secret.key"].key.type is ConfigType.PASSWORD


class TestRefusals:
    def test_wrong_value(self) -> None:
        """A message names the key, the value, its source and the allowed values."""
        message = refusal(environ={"PENSTOCK_LOG_SYNC_MODE": "grup"})

        assert message == ("log.sync.mode = 'grup' (environment PENSTOCK_LOG_SYNC_MODE): allowed: group, interval")

    def test_unknown_key(self) -> None:
        """A message about an unknown key names the nearest one and what that takes."""
        message = refusal("num.partition=3")

        assert "unknown key num.partition = '3' (--set)" in message
        assert "nearest known key: num.partitions (int from 1 to 100000)" in message

    @pytest.mark.parametrize(
        ("assignment", "allowed"),
        [
            ("num.partitions=0", "int from 1 to 100000"),
            ("num.partitions=many", "int from 1 to 100000"),
            ("auto.create.topics.enable=perhaps", "true, false"),
            ("log.retention.ms=0", "long from 1 to 9223372036854775807, or -1"),
            ("log.cleanup.policy=shred", "delete, compact, or both with a comma"),
            ("compression.type=brotli", "producer, uncompressed, gzip, snappy, lz4, zstd"),
            ("http.listen=9094", "HOST:PORT, off"),
            ("listeners=", "at least one"),
            ("group.min.session.timeout.ms=1800001", "at most group.max.session.timeout.ms"),
            ("tier2=s3:bucket", "s3://BUCKET/PREFIX, file, file:PATH, off"),
            ("tier2=s3://", "s3://BUCKET/PREFIX, file, file:PATH, off"),
            ("tier2=ftp://host/path", "s3://BUCKET/PREFIX, file, file:PATH, off"),
            ("tier2=file:", "s3://BUCKET/PREFIX, file, file:PATH, off"),
            ("tier2=file:data/store", "no directory that Penstock uses for something else"),
            ("tier2=file:data/store/container-0", "no directory that Penstock uses for something else"),
            ("tier2=file:data", "no directory that Penstock uses for something else"),
            ("log.max.bytes=268435455", "at least 4 times log.file.bytes, which is 67108864"),
            ("tier2.read.ahead.bytes=67108865", "at most tier2.cache.bytes, which is 67108864"),
            ("chunk.bytes=65535", "int from 65536 to 1073741824"),
        ],
    )
    def test_what_is_allowed(self, assignment: str, allowed: str) -> None:
        """Each kind of key names its allowed values in words."""
        key, _, value = assignment.partition("=")

        message = refusal(assignment)

        assert message.startswith(f"{key} = ")
        assert value in message
        assert "(--set)" in message
        assert allowed in message

    def test_a_chunk_leaves_room_in_the_log(self) -> None:
        """The log takes more while a chunk is made of its half."""
        message = refusal("log.file.bytes=1048576", "log.max.bytes=4194304", "chunk.bytes=2097153")

        assert "chunk.bytes = 2097153 (--set): allowed: at most half of log.max.bytes, which is 4194304" in message

    @pytest.mark.parametrize(
        ("key", "missing"), [("tier2.access.key", "tier2.secret.key"), ("tier2.secret.key", "tier2.access.key")]
    )
    def test_half_a_pair_of_credentials(self, key: str, missing: str) -> None:
        """A key without its secret, or the other way round, is a mistake; neither is quoted."""
        message = refusal("tier2=s3://b", f"{key}=hunter2")

        assert message == f"{key} is set (--set) and {missing} is not: they belong together"

    @pytest.mark.parametrize(
        "endpoint",
        ["localhost:9000", "ftp://h", "http://", "http://h:x", "http://h:0", "http://h/path", "https://me:hunter2@h"],
    )
    def test_endpoints_that_are_none(self, endpoint: str) -> None:
        """An endpoint is scheme, host and port; credentials in it are refused and not repeated."""
        message = refusal("tier2=s3://b", f"tier2.endpoint={endpoint}")

        assert message.startswith("tier2.endpoint (--set) is no address of an S3 store: allowed: http://HOST[:PORT]")
        assert "hunter2" not in message

    def test_an_endpoint_without_a_bucket(self) -> None:
        """An endpoint means that objects should go there: without a bucket they would not."""
        assert "here tier2 = file (default)" in refusal("tier2.endpoint=http://h")

    @pytest.mark.parametrize("key", ["tier2.secretkey", "tier2.secret", "tier2.accesskey", "tier2.token"])
    def test_a_misspelt_secret(self, key: str) -> None:
        """The value of an unknown key that sounds like a secret is not shown."""
        message = refusal(environ={f"PENSTOCK_{key.upper().replace('.', '_')}": "hunter2"})

        assert f"unknown key {key} = [hidden]" in message

    def test_all_mistakes_at_once(self) -> None:
        """Nobody has to start three times to find three mistakes."""
        message = refusal("node.id=x", "num.partitions=y", "max.connections=z")

        assert [line.partition(" ")[0] for line in message.splitlines()] == [
            "node.id",
            "max.connections",
            "num.partitions",
        ]

    def test_booleans_are_no_numbers(self, tmp_path: Path) -> None:
        """`true` for a number is a mistake, not 1."""
        with pytest.raises(ConfigError, match=r"num\.partitions = True"):
            loaded(tmp_path, "num.partitions = true")

    def test_a_key_twice_in_two_spellings(self, tmp_path: Path) -> None:
        """A file that gives a key twice is refused, however the key is spelt."""
        with pytest.raises(ConfigError, match=r"node\.id is given twice"):
            loaded(tmp_path, '"node.id" = 1\n[node]\nid = 2')

    def test_not_toml(self, tmp_path: Path) -> None:
        """A broken file is named with line and column."""
        with pytest.raises(ConfigError, match=r"penstock\.toml: is not TOML: .*line 1"):
            loaded(tmp_path, "num.partitions = = 3")

    def test_no_file(self, tmp_path: Path) -> None:
        """A file that is not there is not silently left out."""
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            load(tmp_path / "absent.toml", {})

    def test_not_an_assignment(self) -> None:
        """--set wants KEY=VALUE."""
        assert refusal("num.partitions") == "--set num.partitions: must be KEY=VALUE"

    def test_wildcard_listener(self) -> None:
        """A wildcard cannot be advertised, so it needs an advertised host; the message gives the reason."""
        message = refusal("listeners=0.0.0.0:9092")

        assert "a client must be told one address to come back to" in message
        assert "0.0.0.0:9092=HOST" in message

    @pytest.mark.parametrize(
        "text",
        [
            "localhost",
            "localhost:",
            "localhost:x",
            "localhost:65536",
            "::1:9092",
            "[zz]:9092",
            "localhost:9092=",
            "localhost:9092=a:b",
            "localhost:9092=a:0",
            "localhost:9092=0.0.0.0",
            "[::]:9092",
            "*:9092",
        ],
    )
    def test_addresses_that_are_none(self, text: str) -> None:
        """An invalid address, or one that no client could dial, is refused."""
        assert f"listeners = {text!r}" in refusal(f"listeners={text}")


def test_description_has_every_key_once() -> None:
    """`penstock config --json` lists each key with exactly the promised facts."""
    rows = json.loads(json.dumps(describe(Config())))

    assert [row["key"] for row in rows] == list(FIELDS)
    assert {tuple(row) for row in rows} == {("key", "value", "default", "source", "type", "section", "doc")}
    assert {row["type"] for row in rows} <= {"int", "long", "double", "boolean", "string", "list", "password"}
    assert all(len(row["doc"]) > 20 for row in rows)


def test_order_of_sections() -> None:
    """`penstock config` lists keys section by section, always in the same order."""
    order = list(FIELDS)
    heads = (
        *("http.token.file", "http.token", "topics.max", "listeners", "max.connections", "log.sync.mode"),
        *("num.partitions", "scaling.policy", "producer.id.expiration.ms", "group.initial.rebalance.delay.ms"),
        *("logging.format", "tier2"),
    )

    assert sorted(heads, key=order.index) == list(heads)
