"""The topic of a run, on a real Kafka broker, which tells of a new topic before it leads its partitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.harness.system import Kafka
from gateway.bench import topics
from gateway.bench.topics import Topics, TopicTrouble

pytestmark = pytest.mark.slow

PARTITIONS = 16


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


def test_a_topic_just_made_has_offsets(kafka: Kafka) -> None:
    nothing = dict.fromkeys(range(PARTITIONS), 0)
    for number in range(20):
        topic = Topics(kafka.address, f"new-{number}")
        with topic.present(PARTITIONS, keep=False):
            assert topic.offsets() == (nothing, nothing)


def test_a_topic_that_never_comes_is_trouble(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "SECONDS_MAX", 4)
    with pytest.raises(TopicTrouble, match=r"the offsets of topic nowhere cannot be read: .*Unknown topic"):
        Topics(kafka.address, "nowhere").offsets()
