"""Asks a real Kafka with share.version=1 and writes `share_answers.json`: `python -m tests.likeness.record_shares`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from compat_tests.harness.system import Kafka
from tests.likeness.asking import Server
from tests.likeness.record import recorded, written
from tests.likeness.share_questions import SHARES, prepared, questions

ANSWERS: Final = Path(__file__).with_name("share_answers.json")
SETTINGS: Final = {
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.share.assignment.interval.ms": "0",
}
"""One broker keeps the state, and there is no time between two targets."""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        kafka = Kafka(Path(directory), SETTINGS)
        kafka.start()
        try:
            topic = prepared(Server(kafka.address), kafka.address)
            found = recorded(kafka.address, {SHARES: questions(topic)})
        finally:
            kafka.stop()
    ANSWERS.write_text(written(found))


if __name__ == "__main__":
    main()
