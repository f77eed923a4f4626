"""Penstock answers members of consumer groups as Kafka does, word for word, through a group's whole life."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateway.forking import serving
from tests.likeness.asking import Server, versions_of
from tests.likeness.consumer_questions import CONSUMER_GROUPS
from tests.likeness.questions import Question

pytestmark = pytest.mark.slow

ANSWERS: Final = json.loads(Path(__file__).with_name("consumer_answers.json").read_text())["consumer groups"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = ("--set", "log.file.bytes=4194304", "--set", "group.consumer.assignment.interval.ms=0")
    with serving(tmp_path_factory.mktemp("gateway"), *settings) as running:
        asked = Server(running.ready()["kafka"][0])
        yield asked
        asked.close()


SOONER: Final = {"a static member", "the instance comes back"}
"""Members that wait for partitions, which come back after a second here."""


def kafkas_answer(question: Question, version: int) -> Any:
    answer = _recorded(question, version)
    return answer | {"heartbeat_interval": 1_000} if question.name in SOONER else answer


def _recorded(question: Question, version: int) -> Any:
    for alike in ANSWERS[f"{question.api}: {question.name}"]:
        first, last = alike["versions"]
        if first <= version <= last:
            return alike["answer"]
    raise AssertionError(f"{question.name} v{version} was not recorded: see tests/likeness/record_consumers.py")


def test_as_kafka(server: Server) -> None:
    """Each question, in order, is answered as Kafka answered it."""
    for question, version, answer in server.answers(CONSUMER_GROUPS):
        assert answer == kafkas_answer(question, version), f"{question.api} v{version}, {question.name}"


def test_all_recorded() -> None:
    """Every question has been asked of Kafka in each of its versions, and nothing else was recorded."""
    assert list(ANSWERS) == [f"{question.api}: {question.name}" for question in CONSUMER_GROUPS]
    for question in CONSUMER_GROUPS:
        for version in versions_of(question):
            kafkas_answer(question, version)
