"""Real clients on secured listeners: SASL_SSL with SCRAM, PLAIN and tokens, mTLS, and what they say when refused, or
held up by a quota."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from compat_tests.harness.system import HERE, java_command
from tests.gateway.launching import PENSTOCK, http_get, serving
from tests.gateway.security.certificates import DAY, NOW, Files, make

PASSWORD: Final = "wonder-land"
RECORDS: Final = [f"record {number} {'.' * 990}" for number in range(20)]
RATE: Final = 1_900
"""Bytes a second that a client may write with a quota: RECORDS are somewhat more than it lets through at once."""
CLOSED: Final = "closed-"
"""Topics that begin with this are closed to alice."""
SIGNER: Final = rsa.generate_private_key(65_537, 2_048)


@dataclass(frozen=True)
class Secured:
    """A gateway with a SASL_SSL and an SSL listener; the latter wants certificates."""

    files: Files
    sasl: str
    mtls: str
    http: str
    log: Path

    def pauses(self) -> float:
        """How often producers had to pause."""
        _, text = http_get(self.http, "/metrics")
        found = re.search(r'^penstock_quota_pauses_total\{quota="producer_byte_rate"\} (\S+)', text, re.M)
        assert found is not None
        return float(found[1])

    def command_config(self, name: str, **properties: Any) -> Path:
        common = {"ssl.truststore.type": "PEM", "ssl.truststore.location": self.files.truststore}
        path = self.files.directory / f"{name}.properties"
        given = common | {key.replace("_", "."): value for key, value in properties.items()}
        path.write_text("".join(f"{key}={value}\n" for key, value in given.items()))
        return path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    files = make(directory)
    (directory / "password").write_text(f"{PASSWORD}\n")
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)
    (directory / "jwks.json").write_text(json.dumps({"keys": [jwk | {"kid": "one"}]}))
    add = ["users", "add", "alice", "--password-file", str(directory / "password")]
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        subprocess.run([PENSTOCK, *add, "--mechanism", mechanism, "--data-dir", str(directory / "data")], check=True)
    settings = {
        "ssl.keystore.location": files.keystore,
        "ssl.truststore.location": files.truststore,
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.ssl.ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'PlainLoginModule required user_alice="{PASSWORD}";',
        "sasl.oauthbearer.jwks.endpoint.url": (directory / "jwks.json").as_uri(),
        "sasl.oauthbearer.expected.audience": "penstock",
        "delegation.token.secret.key": "a key of tests",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
    listeners = ("--listen", "SASL_SSL://localhost:0", "--listen", "SSL://localhost:0")
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with serving(directory, *listeners, "--http", "127.0.0.1:0", *sets) as gateway:
        ready = gateway.ready()
        sasl, mtls = ready["kafka"]
        made = Secured(files, sasl, mtls, ready["http"], gateway.err)
        prepare(made)
        yield made


def prepare(secured: Secured) -> None:
    """By alice: topics that are closed to her, and a quota for those of her clients that say that they are limited."""

    def tool(*arguments: str) -> None:
        proof = ("--user", "alice", "--password-file", str(secured.files.directory / "password"))
        common = ("--bootstrap", secured.sasl, *proof, "--ca", str(secured.files.truststore))
        subprocess.run([PENSTOCK, *arguments, *common], check=True, timeout=60)

    closed = ("--resource", f"topic:{CLOSED}", "--prefixed")
    tool("acls", "add", "--principal", "User:alice", "--deny", "--operation", "all", *closed)
    for client in CLIENTS:
        limit = ("--set", f"producer_byte_rate={RATE}")
        tool("quotas", "set", "user=alice", f"client-id=limited-{client}", *limit)


@dataclass(frozen=True)
class Way:
    """How a client proves who it is."""

    protocol: str
    mechanism: str = ""
    password: str = PASSWORD
    certificate: Path | None = None
    client_id: str = "tests"


def scram(mechanism: str = "SCRAM-SHA-512", password: str = PASSWORD) -> Way:
    return Way("SASL_SSL", mechanism, password)


def address_of(secured: Secured, way: Way) -> str:
    return secured.sasl if way.protocol == "SASL_SSL" else secured.mtls


# --- Clients: each writes RECORDS to a topic and returns what it reads back -----------------------


def confluent(secured: Secured, way: Way, topic: str) -> list[str]:
    from confluent_kafka import Consumer, Producer

    settings: dict[str, Any] = {
        "bootstrap.servers": address_of(secured, way),
        "security.protocol": way.protocol,
        "ssl.ca.location": str(secured.files.truststore),
        "client.id": way.client_id,
        "message.timeout.ms": 5_000,
    }
    if way.mechanism:
        settings |= {"sasl.mechanism": way.mechanism, "sasl.username": "alice", "sasl.password": way.password}
    if way.certificate:
        settings |= {"ssl.certificate.location": str(way.certificate), "ssl.key.location": str(way.certificate)}
    errors: list[str] = []
    producer = Producer(settings | {"error_cb": lambda error: errors.append(str(error))})
    for record in RECORDS:
        producer.produce(topic, record, on_delivery=lambda error, _: errors.append(str(error)) if error else None)
    if producer.flush(8) or errors:
        raise PermissionError("; ".join(errors))
    del settings["message.timeout.ms"]
    consumer = Consumer(settings | {"group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    read: list[str] = []
    ends_at = time.monotonic() + 20
    while len(read) < len(RECORDS) and time.monotonic() < ends_at:
        read += [message.value().decode() for message in consumer.consume(100, 0.5) if not message.error()]
    consumer.close()
    if not read:
        raise PermissionError("; ".join(errors))
    return read


def kafka_python(secured: Secured, way: Way, topic: str) -> list[str]:
    from kafka import KafkaConsumer, KafkaProducer

    settings: dict[str, Any] = {
        "bootstrap_servers": address_of(secured, way),
        "security_protocol": way.protocol,
        "ssl_cafile": str(secured.files.truststore),
        "client_id": way.client_id,
    }
    if way.mechanism:
        settings |= {
            "sasl_mechanism": way.mechanism,
            "sasl_plain_username": "alice",
            "sasl_plain_password": way.password,
        }
    if way.certificate:
        settings |= {"ssl_certfile": str(way.certificate), "ssl_keyfile": str(way.certificate)}
    try:
        producer = KafkaProducer(**settings, max_block_ms=5_000, bootstrap_timeout_ms=5_000)
        for future in [producer.send(topic, record.encode()) for record in RECORDS]:
            future.get(timeout=10)
        producer.close(timeout=1)
    except Exception as error:
        raise PermissionError(str(error)) from error
    consumer = KafkaConsumer(topic, **settings, auto_offset_reset="earliest", consumer_timeout_ms=10_000)
    read: list[str] = []
    for record in consumer:
        read.append(record.value.decode())
        if len(read) == len(RECORDS):
            break
    consumer.close()
    return read


def aiokafka(secured: Secured, way: Way, topic: str) -> list[str]:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.errors import KafkaError

    context = ssl.create_default_context(cafile=str(secured.files.truststore))
    if way.certificate:
        context.load_cert_chain(way.certificate)
    settings: dict[str, Any] = {
        "bootstrap_servers": address_of(secured, way),
        "security_protocol": way.protocol,
        "ssl_context": context,
        "client_id": way.client_id,
    }
    if way.mechanism:
        settings |= {
            "sasl_mechanism": way.mechanism,
            "sasl_plain_username": "alice",
            "sasl_plain_password": way.password,
        }

    async def talk() -> list[str]:
        producer = AIOKafkaProducer(**settings)
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await producer.stop()
            raise PermissionError(str(error)) from error
        try:
            for record in RECORDS:
                await producer.send_and_wait(topic, record.encode())
        except KafkaError as error:
            raise PermissionError(repr(error)) from error
        finally:
            await producer.stop()
        consumer = AIOKafkaConsumer(topic, **settings, auto_offset_reset="earliest")
        await consumer.start()
        read = [(await asyncio.wait_for(consumer.getone(), 10)).value.decode() for _ in RECORDS]
        await consumer.stop()
        return read

    return asyncio.run(talk())


def java(secured: Secured, way: Way, topic: str) -> list[str]:
    properties: dict[str, Any] = {"security_protocol": way.protocol, "client_id": way.client_id}
    if way.mechanism:
        module = "plain.Plain" if way.mechanism == "PLAIN" else "scram.Scram"
        properties |= {
            "sasl_mechanism": way.mechanism,
            "sasl_jaas_config": f"org.apache.kafka.common.security.{module}LoginModule required "
            f'username="alice" password="{way.password}";',
        }
    if way.certificate:
        properties |= {"ssl_keystore_type": "PEM", "ssl_keystore_location": way.certificate}
    config = secured.command_config(topic, **properties)
    server = ("--bootstrap-server", address_of(secured, way), "--topic", topic, "--command-config", str(config))

    def run(tool: str, *arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [*java_command(tool), *server, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode or "Exception" in done.stderr:
            raise PermissionError(done.stdout + done.stderr)
        return done.stdout

    run("org.apache.kafka.tools.TopicCommand", "--create")
    run("org.apache.kafka.tools.ConsoleProducer", given="".join(f"{record}\n" for record in RECORDS))
    consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    return run(consumer, "--from-beginning", "--max-messages", str(len(RECORDS)), "--timeout-ms", "20000").splitlines()


NODE: Final = """
const { Kafka, logLevel } = require('kafkajs');
const fs = require('fs');
const [address, topic, ca, sasl, pem, records, clientId] = JSON.parse(process.argv[1]);
const ssl = { ca: [fs.readFileSync(ca)], servername: 'localhost' };
if (pem) { ssl.cert = fs.readFileSync(pem); ssl.key = fs.readFileSync(pem); }
const settings = { brokers: [address], clientId, ssl, logLevel: logLevel.NOTHING, retry: { retries: 1 } };
const kafka = new Kafka(sasl ? { ...settings, sasl } : settings);
(async () => {
  const producer = kafka.producer();
  await producer.connect();
  await producer.send({ topic, messages: records.map((value) => ({ value })) });
  await producer.disconnect();
  const consumer = kafka.consumer({ groupId: topic });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  const read = [];
  await consumer.run({ eachMessage: async ({ message }) => {
    read.push(message.value.toString());
    if (read.length === records.length) { console.log(JSON.stringify(read)); process.exit(0); }
  } });
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


def kafkajs(secured: Secured, way: Way, topic: str) -> list[str]:
    sasl = None
    if way.mechanism:
        sasl = {"mechanism": way.mechanism.lower(), "username": "alice", "password": way.password}
    pem = str(way.certificate) if way.certificate else None
    told = json.dumps(
        [address_of(secured, way), topic, str(secured.files.truststore), sasl, pem, RECORDS, way.client_id]
    )
    done = subprocess.run(
        ["node", "-e", NODE, told], capture_output=True, text=True, timeout=60, check=False, cwd=HERE / "node"
    )
    if done.returncode:
        raise PermissionError(done.stderr)
    return list(json.loads(done.stdout))


CLIENTS: Final[dict[str, Callable[[Secured, Way, str], list[str]]]] = {
    "confluent": confluent,
    "kafka-python": kafka_python,
    "aiokafka": aiokafka,
    "java": java,
    "kafkajs": kafkajs,
}
each_client = pytest.mark.parametrize("client", CLIENTS)


@each_client
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_sasl_ssl(secured: Secured, client: str, mechanism: str) -> None:
    """A user with the right password writes and reads."""
    read = CLIENTS[client](secured, scram(mechanism), f"sasl-{client}-{mechanism}")
    assert read == RECORDS


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256"])
def test_kcat_by_scram(secured: Secured, mechanism: str) -> None:
    """kcat comes in with the librdkafka that distributions have, which says its part of SCRAM's nonce twice."""
    way = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": mechanism,
        "sasl.username": "alice",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(secured.files.truststore),
    }
    common = ["kcat", "-b", secured.sasl, *(part for key, value in way.items() for part in ("-X", f"{key}={value}"))]
    topic = f"sasl-kcat-{mechanism}"
    subprocess.run([*common, "-P", "-t", topic], input="\n".join(RECORDS).encode(), check=True, timeout=60)
    read = subprocess.run([*common, "-C", "-t", topic, "-e", "-q"], capture_output=True, check=True, timeout=60)
    assert read.stdout.decode().splitlines() == RECORDS


@each_client
def test_mutual_tls(secured: Secured, client: str) -> None:
    """A client whose certificate an authority of ours has signed writes and reads."""
    way = Way("SSL", certificate=secured.files.client("carol"))
    assert CLIENTS[client](secured, way, f"mtls-{client}") == RECORDS


@each_client
def test_a_wrong_password(secured: Secured, client: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client says that authentication failed, in its error or in its log."""
    with pytest.raises(PermissionError) as refused:
        CLIENTS[client](secured, scram(password="wrong"), f"wrong-{client}")
    assert re.search("(?i)authentication failed|invalid credentials", f"{refused.value}{caplog.text}")


@each_client
def test_an_expired_certificate(secured: Secured, client: str) -> None:
    """The client is told by TLS, and the gateway's log names the reason."""
    way = Way("SSL", certificate=secured.files.client("carol", ends=NOW - DAY))
    with pytest.raises(PermissionError):
        CLIENTS[client](secured, way, f"expired-{client}")
    assert "its certificate is refused: certificate has expired" in secured.log.read_text()


@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "java"])
def test_a_closed_topic(secured: Secured, client: str, caplog: pytest.LogCaptureFixture) -> None:
    """A user without the right is told so, in the client's own words. Java's tools are in `test_acls.py`, as its
    console consumer says nothing."""
    with pytest.raises(PermissionError) as refused:
        CLIENTS[client](secured, scram(), f"{CLOSED}{client}")
    assert re.search("(?i)authoriz", f"{refused.value}{caplog.text}")


@each_client
def test_a_quota(secured: Secured, client: str) -> None:
    """A client that is held up by its quota writes and reads everything all the same."""
    before = secured.pauses()
    way = replace(scram(), client_id=f"limited-{client}")
    assert CLIENTS[client](secured, way, f"limited-{client}") == RECORDS
    assert secured.pauses() > before


def test_tokens(secured: Secured) -> None:
    """OAUTHBEARER: librdkafka with a token that an authority of ours has signed."""
    from confluent_kafka import Producer

    claims = {"sub": "svc", "aud": "penstock", "exp": int(time.time()) + 60}
    token = jwt.encode(claims, SIGNER, "RS256", headers={"kid": "one"})
    producer = Producer(
        {
            "bootstrap.servers": secured.sasl,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "OAUTHBEARER",
            "ssl.ca.location": str(secured.files.truststore),
            "oauth_cb": lambda _: (token, time.time() + 60),
            "message.timeout.ms": 10_000,
        }
    )
    failed: list[Any] = []
    producer.produce("tokens", b"x", on_delivery=lambda error, _: failed.append(error))
    assert producer.flush(15) == 0
    assert failed == [None]


def test_users_by_kafkas_tool(secured: Secured) -> None:
    """kafka-configs.sh makes a user, lists it, and the user comes in."""
    config = secured.command_config(
        "admin",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_jaas_config="org.apache.kafka.common.security.scram.ScramLoginModule required "
        f'username="alice" password="{PASSWORD}";',
    )
    common = ("--bootstrap-server", secured.sasl, "--command-config", str(config), "--entity-type", "users")

    def configs(*arguments: str) -> str:
        command = [*java_command("kafka.admin.ConfigCommand"), *common, "--entity-name", "dora", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    configs("--alter", "--add-config", "SCRAM-SHA-256=[iterations=8192,password=d-secret]")
    assert "SCRAM-SHA-256=iterations=8192" in configs("--describe")
    configs("--alter", "--delete-config", "SCRAM-SHA-256")
    assert "SCRAM-SHA-256" not in configs("--describe")


def test_delegation_tokens(secured: Secured) -> None:
    """kafka-delegation-tokens.sh makes, lists, renews and ends a token, by which Java's producer comes in; it makes no
    other by it."""

    def config(name: str, user: str, password: str, extra: str = "") -> Path:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return secured.command_config(
            name,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_jaas_config=f'{module} required username="{user}" password="{password}"{extra};',
        )

    def tool(with_config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = java_command("org.apache.kafka.tools.DelegationTokenCommand")
        common = ("--bootstrap-server", secured.sasl, "--command-config", str(with_config))
        return subprocess.run([*command, *common, *arguments], capture_output=True, text=True, timeout=60, check=False)

    own = config("owner", "alice", PASSWORD)
    made = tool(own, "--create", "--max-life-time-period", "-1", "--renewer-principal", "User:bob")
    assert made.returncode == 0, made.stdout + made.stderr
    token_id, secret = made.stdout.splitlines()[-1].split()[:2]
    assert token_id in tool(own, "--describe", "--owner-principal", "User:alice").stdout
    assert "Completed renew" in tool(own, "--renew", "--renew-time-period", "-1", "--hmac", secret).stdout

    by_token = config("holder", token_id, secret, ' tokenauth="true"')
    command = (*java_command("org.apache.kafka.tools.ConsoleProducer"), "--bootstrap-server", secured.sasl)
    arguments = ("--topic", "by-token", "--command-config", str(by_token))
    sent = subprocess.run([*command, *arguments], input="x\n", capture_output=True, text=True, timeout=60, check=False)
    assert (sent.returncode, "Exception" in sent.stderr) == (0, False), sent.stderr
    refused = tool(by_token, "--create", "--max-life-time-period", "-1")
    assert "Delegation Token requests are not allowed" in refused.stdout + refused.stderr

    assert "Completed expire" in tool(own, "--expire", "--expiry-time-period", "-1", "--hmac", secret).stdout
    assert token_id not in tool(own, "--describe").stdout
