"""What runs beside each other: a Penstock, a JVM of somebody else's, and the records that both see.

Keeps: the starter of a process ends it, by its pid; every wait has a bound.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from compat_tests.harness.system import JVM_FLAGS, SETTINGS, Penstock
from tests.gateway.launching import PENSTOCK, serving
from tests.gateway.security import certificates

WITHIN_S: Final = 120.0
QUIET: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
SAID_CHARS_MAX: Final = 4_000


@contextmanager
def penstock(directory: Path) -> Iterator[Penstock]:
    directory.mkdir(parents=True)
    server = Penstock(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def secured(
    directory: Path, user: str, settings: Mapping[str, str], *, is_super: bool = True
) -> Iterator[Mapping[str, str]]:
    """A Penstock that asks everybody who they are. Its only user may do everything: by its name, or, if that is not
    `is_super`, until an ACL says otherwise. Yields the addresses of its listeners, `kafka` with TLS and `unsealed`
    without, the user's `password` for SCRAM, and `ca`, a file of who vouches for it."""
    files = certificates.make(directory)
    password = secrets.token_hex(16)
    file = directory / "password"
    file.write_text(password)
    data = ("--data-dir", str(directory / "data"))
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        add = ("users", "add", user, "--mechanism", mechanism, "--password-file", str(file))
        subprocess.run([PENSTOCK, *add, *data], check=True, timeout=60)
    given = (
        SETTINGS
        | settings
        | {
            "ssl.keystore.location": str(files.keystore),
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false" if is_super else "true",
        }
        | ({"super.users": f"User:{user}"} if is_super else {})
    )
    sets = [f"--set={key}={value}" for key, value in given.items()]
    listeners = ("--listen", "SASL_SSL://localhost:0", "--listen", "SASL_PLAINTEXT://localhost:0")
    with serving(directory, *listeners, *sets) as running:
        sealed, unsealed = running.ready()["kafka"]
        yield {"kafka": sealed, "unsealed": unsealed, "password": password, "ca": str(files.truststore)}


class Jvm:
    """A JVM with its log in a directory."""

    def __init__(
        self, class_path: Sequence[Path], main: str, directory: Path, *arguments: str, flags: Sequence[str] = ()
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "jvm.log"
        path = ":".join(map(str, class_path))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *JVM_FLAGS, QUIET, "-Xmx512m", *flags, "-cp", path, main, *arguments], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """As a machine that fails: without a warning."""
        self._process.kill()
        self._process.wait()

    def assert_running(self) -> None:
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-SAID_CHARS_MAX:]


def compiled(sources: Path, jars: Path, directory: Path) -> Path:
    """The classes of a job that is written for the run."""
    classes = directory / "classes"
    files = map(str, (sources / "src").glob("*.java"))
    subprocess.run(["javac", "-cp", str(jars / "*"), "-d", str(classes), *files], check=True, timeout=120)
    return classes


def make(server: Penstock, topic: str) -> None:
    """One partition, so that there is one order."""
    admin = AdminClient({"bootstrap.servers": server.address})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)


def produce(server: Penstock, topic: str, values: Sequence[str]) -> None:
    """In order, and acknowledged."""
    producer = Producer({"bootstrap.servers": server.address, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(60) == 0


def read(server: Penstock, topic: str) -> list[str]:
    """All committed values of a topic's partition 0; none while there is no such topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": server.address,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
        }
    )
    values: list[str] = []
    try:
        if topic not in consumer.list_topics(timeout=30).topics:
            return values
        consumer.assign([TopicPartition(topic, 0, 0)])
        while (message := consumer.poll(10)) is not None and message.error() is None:
            values.append((message.value() or b"").decode())
    finally:
        consumer.close()
    return values
