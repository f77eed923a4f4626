"""etcd has lost all that it had: users of SCRAM, their rights and quotas come back from the bucket."""

from __future__ import annotations

import shutil
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from minio import Minio

from gateway.cluster.settings_copy import PREFIX
from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.forking import forked, run
from tests.gateway.launching import Running
from tests.tier2.conftest import bucket, minio
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

__all__ = ["bucket", "minio"]

KEY: Final = "a key of tests that is long enough to seal"
PASSWORD: Final = "alice's password"
ADMIN_PASSWORD: Final = "the admin's password"
REST_S: Final = 90.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + REST_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Site:
    """One node of a secured cluster, and those who use it."""

    def __init__(self, directory: Path, etcd: EtcdServer, minio: MinioServer, bucket: str) -> None:
        self._directory = directory
        users, key, password = directory / "users", directory / "key", directory / "password"
        key.write_text(KEY + "\n")
        password.write_text(ADMIN_PASSWORD)
        users.write_text(run("users", "hash", "admin", "--password-file", str(password)).stdout)
        for secret in (users, key, password):
            secret.chmod(0o600)
        self.place = (
            *("--cluster", f"etcd://{etcd.endpoint}/{bucket}"),
            *("--tier2", f"s3://{bucket}/a", "--tier2-endpoint", minio.endpoint),
        )
        self.sealed = ("--set", f"cluster.settings.key.file={key}")
        self._settings = (
            *("--http", "off", "--set", "cluster.containers=2", "--set", f"sasl.plain.users.file={users}"),
            *("--set", "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256"),
            *("--set", "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            *("--set", "super.users=User:admin", "--set", "listener.security.protocol.map=IN:SASL_PLAINTEXT"),
        )
        self.address = ""

    def serve(self, home: str, *more: str) -> Running:
        listen = ("--listen", "IN://127.0.0.1:0")
        running = Running(self._directory / home, *self.place, *self._settings, *listen, *more, start=forked)
        self.address = running.ready()["kafka"][0].rpartition("//")[2]
        return running

    def as_user(self, mechanism: str, user: str, password: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.address,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": password,
            "log_level": 0,
        }

    def admin(self) -> AdminClient:
        return AdminClient(self.as_user("PLAIN", "admin", ADMIN_PASSWORD))

    def alice(self) -> dict[str, Any]:
        return self.as_user("SCRAM-SHA-256", "alice", PASSWORD)


def write(client: dict[str, Any], topic: str) -> KafkaError | None:
    """What became of one record."""
    outcome: list[KafkaError | None] = []
    producer = Producer({**client, "message.timeout.ms": int(REST_S * 1000)})
    producer.produce(topic, b"a", on_delivery=lambda error, _: outcome.append(error))
    producer.flush(REST_S)
    return outcome[0]


def read(client: dict[str, Any], topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({**client, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        found: list[bytes | None] = []
        deadline = time.monotonic() + REST_S
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                found.append(message.value())
        return found
    finally:
        consumer.close()


def settings_in(storage: Any, bucket: str) -> list[bytes]:
    names = [one.object_name for one in storage.list_objects(bucket, f"a/{PREFIX}")]
    return [storage.get_object(bucket, name).read() for name in sorted(names)]


@pytest.mark.slow
def test_a_client_of_scram_goes_on_with_its_rights(
    tmp_path: Path, etcd: EtcdServer, minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user made by Kafka's API, ACLs, a config of the node: all are there after etcd was wiped and rebuilt. Without
    the key, `rebuild` refuses by name, and nothing of the credentials is in the bucket in clear."""
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)
    site = Site(tmp_path, etcd, minio, bucket)
    with ExitStack() as undo:
        running = site.serve("before", *site.sealed)
        undo.callback(running.process.kill)
        admin = site.admin()
        admin.create_topics([NewTopic("t", 2)])["t"].result(REST_S)
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        made = UserScramCredentialUpsertion("alice", scram, PASSWORD.encode(), b"some salt")
        admin.alter_user_scram_credentials([made])["alice"].result(REST_S)
        any_host, allow, literal = "*", AclPermissionType.ALLOW, ResourcePatternType.LITERAL
        rights = [
            AclBinding(kind, name, literal, "User:alice", any_host, AclOperation.ALL, allow)
            for kind, name in ((ResourceType.TOPIC, "t"), (ResourceType.GROUP, "g"))
        ]
        for answer in admin.create_acls(rights).values():
            answer.result(REST_S)
        retention = ConfigEntry("log.retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
        of_the_node = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[retention])
        for answer in admin.incremental_alter_configs([of_the_node]).values():
            answer.result(REST_S)
        assert write(site.alice(), "t") is None
        client = Minio(f"127.0.0.1:{minio.port}", ROOT_USER, ROOT_PASSWORD, secure=False)
        until(lambda: any(b64encode(b"7200000") in one for one in settings_in(client, bucket)))
        salts = b"some salt", b64encode(b"some salt")
        assert not any(salt in one for one in settings_in(client, bucket) for salt in salts)
        assert running.terminate() == 0

        etcd.stop()
        shutil.rmtree(etcd.directory / "data")
        etcd.start()
        refused = run("cluster", "rebuild", *site.place, "--yes")
        assert refused.returncode == 2, refused.stderr
        assert "set cluster.settings.key" in refused.stderr
        assert KEY not in refused.stderr
        done = run("cluster", "rebuild", *site.place, *site.sealed, "--yes")
        assert done.returncode == 0, done.stderr
        assert "credentials of SCRAM" in done.stdout

        running = site.serve("after", *site.sealed)
        undo.callback(running.process.kill)
        assert write(site.alice(), "t") is None
        assert read(site.alice(), "t", 2) == [b"a", b"a"]
        stranger = AdminClient({**site.alice(), "sasl.password": "not hers"})
        with pytest.raises(KafkaException):
            stranger.list_topics(timeout=3)
        admin = site.admin()
        admin.create_topics([NewTopic("other", 1)])["other"].result(REST_S)
        denied = write({**site.alice(), "topic.metadata.refresh.interval.ms": 100}, "other")
        assert denied is not None
        assert denied.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        (described,) = admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, "1")]).values()
        assert described.result(REST_S)["log.retention.ms"].value == "7200000"
        assert running.terminate() == 0
