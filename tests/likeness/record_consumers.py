"""Asks a real Kafka and writes `consumer_answers.json`: `python -m tests.likeness.record_consumers`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from compat_tests.harness.system import Kafka
from compat_tests.harness.waiting import until
from tests.likeness.asking import Server
from tests.likeness.consumer_questions import CONSUMER_GROUPS
from tests.likeness.questions import Question
from tests.likeness.record import recorded, written

ANSWERS: Final = Path(__file__).with_name("consumer_answers.json")
SETTINGS: Final = {
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.consumer.assignment.interval.ms": "0",
    "group.consumer.heartbeat.interval.ms": "5000",
    "group.consumer.min.heartbeat.interval.ms": "5000",
    "group.consumer.session.timeout.ms": "45000",
    "group.consumer.min.session.timeout.ms": "45000",
}
"""Kafka's defaults, but no time between two targets: an answer must not depend on the speed of a machine."""


def _await_coordinator(server: Server) -> None:
    """Kafka makes its topic of groups when it is first asked for one, and takes a while."""
    first = Question("a coordinator", "FindCoordinator", {"key_type": 0, "coordinator_keys": ["c"]})
    group = Question("a group", "DescribeGroups", {"groups": ["c"]})

    def is_there() -> bool:
        server.ask(first, 4)
        return bool(server.ask(group, 0)["groups"][0]["error_code"] == 0)

    until(is_there, within_s=30, what="Kafka coordinates groups")
    server.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka = Kafka(Path(directory), SETTINGS, features=("share.version=0", "streams.version=0"))
        kafka.start()
        try:
            _await_coordinator(Server(kafka.address))
            found = recorded(kafka.address, {"consumer groups": CONSUMER_GROUPS})
        finally:
            kafka.stop()
    ANSWERS.write_text(written(found))


if __name__ == "__main__":
    main()
