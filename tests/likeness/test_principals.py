"""A certificate's name is the text that Java writes, and rules make the user of it that Kafka makes."""

from __future__ import annotations

import json
from typing import Final

import pytest

from tests.likeness.principals import ANSWERS, JARS, SEED, asked, ours, questions

LIVE_SEED: Final = 7


def test_recorded() -> None:
    """Names with every character that has a meaning, and rules that do not fit, cannot be read, or come in a row."""
    recorded = json.loads(ANSWERS.read_text())
    assert recorded["seed"] == SEED
    for question, answer in zip(questions(SEED), recorded["answers"], strict=True):
        assert ours(question) == answer, question


@pytest.mark.slow
@pytest.mark.skipif(not JARS.exists(), reason="Kafka's jars are not there")
def test_live() -> None:
    """The same beside the classes themselves, on what is not recorded."""
    some = list(questions(LIVE_SEED))
    for question, answer in zip(some, asked(some), strict=True):
        assert ours(question) == answer, question
