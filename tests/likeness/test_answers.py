"""Penstock answers as a Kafka without security and new group protocols does, in every version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateway.forking import serving
from tests.likeness.asking import Server, versions_of
from tests.likeness.questions import CLASSIC_AND_CONSUMER, GROUPS, Question
from tests.likeness.ranges import OURS

ANSWERS: Final = json.loads(Path(__file__).with_name("answers.json").read_text())


DIFFERENT: Final = {
    "the quorum": ("CONTROLLER", "PLAINTEXT"),  # the one listener is every kind of endpoint
}
"""Questions that Penstock answers in another word, on purpose: Kafka's, and its own."""


CLASSIC_ONLY: Final = ("--set", "log.file.bytes=4194304", "--set", "group.coordinator.rebalance.protocols=classic")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("gateway"), *CLASSIC_ONLY) as running:
        asked = Server(running.ready()["kafka"][0])
        assert asked.ask(CLASSIC_AND_CONSUMER, 1)["error_code"] == 0
        yield asked
        asked.close()


def kafkas_answer(group: str, question: Question, version: int) -> Any:
    for alike in ANSWERS[group][f"{question.api}: {question.name}"]:
        first, last = alike["versions"]
        if first <= version <= last:
            theirs, ours = DIFFERENT.get(question.name, ("", ""))
            return json.loads(json.dumps(alike["answer"]).replace(theirs, ours)) if theirs else alike["answer"]
    raise AssertionError(f"{question.name} v{version} was not recorded: see tests/likeness/__init__.py")


def without_ours(answer: Any) -> Any:
    """An answer without the configs that no released Kafka has."""
    if isinstance(answer, dict):
        return {name: without_ours(value) for name, value in answer.items()}
    if not isinstance(answer, list):
        return answer
    return [
        without_ours(one) for one in answer if not (isinstance(one, dict) and str(one.get("name")).startswith(OURS))
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_as_kafka(server: Server, group: str) -> None:
    """Each question of a group is answered as Kafka answered it."""
    for question, version, answer in server.answers(GROUPS[group]):
        expected = kafkas_answer(group, question, version)
        assert without_ours(answer) == expected, f"{question.api} v{version}, {question.name}"


def test_all_recorded() -> None:
    """Every question has been asked of Kafka in each of its versions, and nothing else was recorded."""
    for group, questions in GROUPS.items():
        assert list(ANSWERS[group]) == [f"{question.api}: {question.name}" for question in questions]
        for question in questions:
            for version in versions_of(question):
                kafkas_answer(group, question, version)
