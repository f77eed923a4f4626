"""Requests to a gateway's HTTP port, and what a test needs of its topics."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

WITHIN_S = 90.0


def call(
    address: str, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Mapping[str, str], Any]:
    """Status, headers, and the body: read as JSON where it is some."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
            return answer.status, answer.headers, _read(answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, _read(error.headers, error.read())


def _read(headers: Mapping[str, str], body: bytes) -> Any:
    kind = headers.get("Content-Type", "")
    return json.loads(body) if "json" in kind and "ndjson" not in kind else body.decode()


def get(address: str, path: str) -> Any:
    status, _, body = call(address, "GET", path)
    assert status == 200, body
    return body


def create_topic(kafka: str, name: str, partitions: int, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    topic = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
    admin.create_topics([topic])[name].result(WITHIN_S)


def delete_topic(kafka: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([name])[name].result(WITHIN_S)


def produce(kafka: str, topic: str, partition: int, values: int, size: int = 100) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for _ in range(values):
        producer.produce(topic, b"x" * size, partition=partition)
    assert producer.flush(WITHIN_S) == 0


def until(found: Callable[[], Any]) -> Any:
    """The first result that is found."""
    deadline = time.monotonic() + WITHIN_S
    while not (what := found()):
        assert time.monotonic() < deadline, f"still nothing from {found}"
        time.sleep(0.02)
    return what
