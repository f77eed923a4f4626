"""When a client may ask for its subscription and push its metrics; times are given, nothing is waited for."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from kio.schema.errors import ErrorCode

from gateway.telemetry import clients as module
from gateway.telemetry.clients import Client, Clients, Push
from gateway.telemetry.subscriptions import Properties, subscription_of

INTERVAL_MS = 10_000
JAVA = Properties("", "app-1", "apache-kafka-java", "4.3.1", "10.0.0.7", "40001")
THROTTLED = ErrorCode.throttling_quota_exceeded


class Scene:
    """Clients under one subscription to producers' metrics, and a clock that a test moves."""

    def __init__(self, **texts: str) -> None:
        self.gone: list[UUID] = []
        self.clients = Clients(1_000, self.gone.append)
        self.now_ms = 1_000_000
        self.subscribe(**({"metrics": "org.apache.kafka.producer.", "interval.ms": str(INTERVAL_MS)} | texts))

    def subscribe(self, **texts: str) -> None:
        subscription = subscription_of(texts)
        assert subscription is not None
        self.clients.subscribe([subscription])

    def ask(self, instance_id: UUID | None = None, properties: Properties = JAVA) -> Client | ErrorCode:
        return self.clients.ask(instance_id, properties, self.now_ms)

    def asked(self, instance_id: UUID | None = None, properties: Properties = JAVA) -> Client:
        client = self.ask(instance_id, properties)
        assert isinstance(client, Client)
        return client

    def push(self, client: Client, **changes: object) -> ErrorCode:
        """The answer's error."""
        push = {
            "instance_id": client.instance_id,
            "subscription_id": client.subscribed.id,
            "terminating": False,
            "codec": 4,
            "size": 10,
        } | changes
        outcome = self.clients.push(Push(**push), JAVA, self.now_ms)  # type: ignore[arg-type]
        return outcome if isinstance(outcome, ErrorCode) else ErrorCode.none


def test_ids() -> None:
    """A client without an instance id gets one, and keeps it."""
    scene = Scene()
    client = scene.asked()

    assert client.instance_id.int > 1
    scene.now_ms += INTERVAL_MS
    assert scene.asked(client.instance_id) is client


def test_asking_too_often() -> None:
    """A client that asks again within its interval is throttled, and heard when it is over."""
    scene = Scene()
    client = scene.asked()

    scene.now_ms += INTERVAL_MS - 1
    assert scene.ask(client.instance_id) is THROTTLED
    scene.now_ms += 1
    assert scene.ask(client.instance_id) is client


def test_pushing_too_often() -> None:
    """The push that follows a subscription comes when it likes, the next ones an interval apart."""
    scene = Scene()
    client = scene.asked()

    scene.now_ms += 1
    assert scene.push(client) is ErrorCode.none
    scene.now_ms += INTERVAL_MS - 1
    assert scene.push(client) is THROTTLED
    scene.now_ms += 1
    assert scene.push(client) is ErrorCode.none


def test_last_push() -> None:
    """A client that ends pushes whenever it likes, and never again."""
    scene = Scene()
    client = scene.asked()
    assert scene.push(client) is ErrorCode.none

    assert scene.push(client, terminating=True) is ErrorCode.none
    scene.now_ms += INTERVAL_MS
    assert scene.push(client) is ErrorCode.invalid_request


def test_changed_subscription() -> None:
    """A client learns of a changed subscription by its next push, and may ask for the new one at once."""
    scene = Scene()
    client = scene.asked()
    scene.subscribe(metrics="org.apache.kafka.consumer.")
    scene.now_ms += INTERVAL_MS

    assert scene.push(client) is ErrorCode.unknown_subscription_id
    changed = scene.asked(client.instance_id)
    assert changed.subscribed.metrics == ("org.apache.kafka.consumer.",)
    assert changed.subscribed.id != client.subscribed.id
    assert scene.push(changed) is ErrorCode.none


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"instance_id": None}, ErrorCode.invalid_request),
        ({"instance_id": UUID(int=1)}, ErrorCode.invalid_request),
        ({"subscription_id": 7}, ErrorCode.unknown_subscription_id),
        ({"codec": 5}, ErrorCode.unsupported_compression_type),
        ({"codec": -1}, ErrorCode.unsupported_compression_type),
        ({"size": 1_001}, ErrorCode.telemetry_too_large),
        ({"codec": 0}, ErrorCode.none),
    ],
)
def test_refusals(changes: dict[str, object], code: ErrorCode) -> None:
    """Each fault of a push has Kafka's error."""
    scene = Scene()

    assert scene.push(scene.asked(), **changes) is code


def test_unknown_client() -> None:
    """A client that this process has never heard of, after a restart for example, keeps its id and its subscription."""
    before, after = Scene(), Scene()
    client = before.asked()

    assert after.push(client) is ErrorCode.none


def test_matching() -> None:
    """A subscription is for clients of which every named property matches as a whole."""
    scene = Scene(match="client_software_name=apache.*,client_id=app-[0-9]")

    assert scene.asked().subscribed.metrics == ("org.apache.kafka.producer.",)
    other = scene.asked(properties=JAVA._replace(id="app-12"))
    assert (other.subscribed.metrics, other.subscribed.interval_ms) == ((), 300_000)


def test_all_metrics() -> None:
    """A subscription to all metrics swallows the others; the shortest interval wins."""
    found = [subscription_of({"metrics": "*", "interval.ms": "60000"}), subscription_of({"metrics": "a,b"})]
    scene = Scene()
    scene.clients.subscribe([each for each in found if each is not None])

    subscribed = scene.asked().subscribed
    assert (subscribed.metrics, subscribed.interval_ms) == (("*",), 60_000)
    assert subscribed.wants("anything")


def test_silent_clients() -> None:
    """A client that says nothing for three intervals, a minute at least, is forgotten."""
    scene = Scene()
    client = scene.asked()

    scene.now_ms += 59_999
    scene.asked()
    assert scene.gone == []
    scene.now_ms += 1
    scene.asked()
    assert scene.gone == [client.instance_id]


def test_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that was silent for longest makes room for a new one."""
    monkeypatch.setattr(module, "CLIENTS_MAX", 3)
    scene = Scene()
    first, *_ = [scene.asked(uuid4()) for _ in range(4)]

    assert len(scene.clients) == 3
    assert scene.gone == [first.instance_id]
