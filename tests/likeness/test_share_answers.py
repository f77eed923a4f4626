"""Penstock answers members of share groups as Kafka does, word for word, through a group's whole life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateway.forking import serving
from tests.likeness.asking import Server, versions_of
from tests.likeness.questions import SOME_ID, Question
from tests.likeness.share_questions import SHARES, prepared, questions

pytestmark = pytest.mark.slow

ANSWERS: Final = json.loads(Path(__file__).with_name("share_answers.json").read_text())[SHARES]


OTHERWISE: Final = {
    ("the first member", "member_epoch"): "a member gets its partitions at once: no state of them is made first",
    ("the first member", "assignment"): "the same",
    ("an epoch ahead", "error_message"): "the same: it names the epoch that the member has",
    ("releasing with a fetch", "responses"): "what a fetch releases can be had again at once, by its member too",
    ("a topic that is none", "error_code"): "the partition has UNKNOWN_TOPIC_ID, as KIP-932 says: Kafka 4.3.1 fails the"
    " request, and with it every other partition of the session",
    ("a topic that is none", "acquisition_lock_timeout"): "the same",
    ("a topic that is none", "responses"): "the same",
}
"""Where Penstock answers otherwise, by question and field, and why."""
NO_LEADER: Final = -1
"""Penstock names a leader to a share group's member only in Metadata."""


def kafkas_answer(question: Question, version: int) -> Any:
    for alike in ANSWERS[f"{question.api}: {question.name}"]:
        first, last = alike["versions"]
        if first <= version <= last:
            return alike["answer"]
    raise AssertionError(f"{question.name} v{version} was not recorded: see tests/likeness/record_shares.py")


def without_leader(answer: Any) -> Any:
    """An answer in which no partition names its leader."""
    if isinstance(answer, list):
        return [without_leader(one) for one in answer]
    if not isinstance(answer, dict):
        return answer
    if "leader_id" in answer:
        return answer | {"leader_id": NO_LEADER}
    return {name: without_leader(one) for name, one in answer.items()}


def without_words(answer: Any, kafkas: Any) -> Any:
    """An answer without the words that say why where Kafka says nothing."""
    if isinstance(answer, list) and isinstance(kafkas, list) and len(answer) == len(kafkas):
        return [without_words(*pair) for pair in zip(answer, kafkas, strict=True)]
    if not isinstance(answer, dict) or not isinstance(kafkas, dict):
        return answer
    return {
        name: None if name == "error_message" and kafkas.get(name) is None else without_words(one, kafkas.get(name))
        for name, one in answer.items()
    }


def differences(question: Question, version: int, answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields of an answer that are not Kafka's."""
    kafkas = without_leader(kafkas_answer(question, version))
    ours = without_words(answer, kafkas)
    assert list(ours) == list(kafkas)
    return [(question.name, name) for name in ours if ours[name] != kafkas[name]]


def test_as_kafka(tmp_path: Path) -> None:
    """Each question, in order, is answered as Kafka answered it, but for the differences that have a reason."""
    with serving(tmp_path, "--set", "log.file.bytes=4194304") as running:
        address = running.ready()["kafka"][0]
        server = Server(address)
        topic = prepared(server, address)
        found = [
            one
            for question, version, answer in server.answers(questions(topic))
            for one in differences(question, version, answer)
        ]
        server.close()

    assert found == list(OTHERWISE)


def test_all_recorded() -> None:
    """Every question has been asked of Kafka in each of its versions, and nothing else was recorded."""
    asked = questions(SOME_ID)
    assert list(ANSWERS) == [f"{question.api}: {question.name}" for question in asked]
    for question in asked:
        for version in versions_of(question):
            kafkas_answer(question, version)
