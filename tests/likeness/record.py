"""Asks a real Kafka and writes `answers.json`: `python -m tests.likeness.record [ADDRESS]`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compat_tests.harness.system import Kafka
from tests.likeness.asking import Server
from tests.likeness.questions import GROUPS, Question

ANSWERS: Final = Path(__file__).with_name("answers.json")
CLASSIC_ONLY: Final = {"group.coordinator.rebalance.protocols": "classic"}
NO_NEW_GROUPS: Final = ("share.version=0", "streams.version=0")


def recorded(address: str, groups: Mapping[str, list[Question]] = GROUPS) -> dict[str, dict[str, Any]]:
    """By group and question: the answer to each range of versions that are answered alike."""
    found: dict[str, dict[str, Any]] = {}
    server = Server(address)
    for group, questions in groups.items():
        rows = found[group] = {}
        for question, version, answer in server.answers(questions):
            alike = rows.setdefault(f"{question.api}: {question.name}", [])
            if alike and alike[-1]["answer"] == answer:
                alike[-1]["versions"][1] = version
            else:
                alike.append({"versions": [version, version], "answer": answer})
    server.close()
    return found


def main() -> None:
    if len(sys.argv) > 1:
        found = recorded(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            kafka = Kafka(Path(directory), CLASSIC_ONLY, features=NO_NEW_GROUPS)
            kafka.start()
            try:
                found = recorded(kafka.address)
            finally:
                kafka.stop()
    ANSWERS.write_text(written(found))


def written(found: dict[str, dict[str, Any]]) -> str:
    """JSON with a line for each range of versions."""
    groups = []
    for group, rows in found.items():
        lines = []
        for name, alike in rows.items():
            each = ",\n".join(f"   {json.dumps(one, ensure_ascii=False)}" for one in alike)
            lines.append(f"  {json.dumps(name)}: [\n{each}\n  ]")
        body = ",\n".join(lines)
        groups.append(f" {json.dumps(group)}: {{\n{body}\n }}")
    return "{\n" + ",\n".join(groups) + "\n}\n"


if __name__ == "__main__":
    main()
