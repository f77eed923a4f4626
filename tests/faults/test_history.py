"""The checker of histories finds every anomaly that is planted, and none where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.faults.history import History, Outcome, Value, check_history

P = ("t", 0)


def clean() -> tuple[History, Outcome]:
    """Two writers, one idempotent; all acknowledged but the last of each; a reader saw the first three."""
    history = History()
    entries = []
    for offset in range(10):
        name = "ab"[offset % 2]
        writer = history.writer(name, P, idempotent=name == "b")
        entries.append((offset, Value(name, 0, writer.sent)))
        if offset < 8:
            writer.acknowledged[writer.sent] = offset
        writer.sent += 1
    history.saw(P, entries[:3])
    history.committing("g", P, 4)
    history.committed("g", P, 4)
    history.committing("g", P, 7)
    return history, Outcome({P: entries}, {("g", P): 4}, {P: 0})


def lose(history: History, outcome: Outcome) -> None:
    del outcome.entries[P][4:]


def repeat(history: History, outcome: Outcome) -> None:
    outcome.entries[P].append((10, Value("a", 0, 1)))


def reorder(history: History, outcome: Outcome) -> None:
    entries = outcome.entries[P]
    entries[8:] = [(8, Value("b", 0, 4)), (9, Value("a", 0, 4))]
    history.writers["a", P].acknowledged.clear()
    history.writers["b", P].acknowledged.clear()
    entries[4], entries[6] = (4, entries[6][1]), (6, entries[4][1])


def invent(history: History, outcome: Outcome) -> None:
    outcome.entries[P].append((10, Value("a", 0, 5)))


def invent_writer(history: History, outcome: Outcome) -> None:
    outcome.entries[P].append((10, Value("c", 0, 0)))


def skip_offset(history: History, outcome: Outcome) -> None:
    outcome.entries[P][9] = (10, outcome.entries[P][9][1])


def skip_number(history: History, outcome: Outcome) -> None:
    history.writers["b", P].sent = 6
    outcome.entries[P][9] = (9, Value("b", 0, 5))


def move(history: History, outcome: Outcome) -> None:
    history.writers["a", P].acknowledged[3] = 7


def take_back(history: History, outcome: Outcome) -> None:
    history.saw(P, [(10, Value("a", 0, 5))])


def stray(history: History, outcome: Outcome) -> None:
    outcome.entries[P][9] = (9, Value("b", 1, 4))


def commit_back(history: History, outcome: Outcome) -> None:
    outcome.commits["g", P] = 3


def commit_ahead(history: History, outcome: Outcome) -> None:
    outcome.commits["g", P] = 8


def test_clean_history() -> None:
    """A history in which the unacknowledged values happen to be there has no anomaly."""
    assert check_history(*clean()) == []


def test_unacknowledged_values_may_be_missing() -> None:
    """A batch that was never acknowledged may be there or not."""
    history, outcome = clean()
    del outcome.entries[P][8:]

    assert check_history(history, outcome) == []


def test_deleted_records_are_not_lost() -> None:
    """Values below the log start are gone rightly."""
    history, outcome = clean()
    outcome.entries[P] = outcome.entries[P][4:]
    outcome.starts = {P: 4}

    assert check_history(history, outcome) == []


@pytest.mark.parametrize(
    ("plant", "anomaly"),
    [
        (lose, "lost"),
        (repeat, "duplicate"),
        (reorder, "reordered"),
        (invent, "invented"),
        (invent_writer, "invented"),
        (skip_offset, "offsets"),
        (skip_number, "gap"),
        (move, "moved"),
        (take_back, "taken back"),
        (stray, "stray"),
        (commit_back, "commit went back"),
        (commit_ahead, "commit went back"),
    ],
)
def test_planted_anomaly_is_found(plant: Callable[[History, Outcome], None], anomaly: str) -> None:
    """Each anomaly, planted into a clean history, is found and named."""
    history, outcome = clean()
    plant(history, copy.copy(outcome))

    assert any(found.startswith(anomaly) for found in check_history(history, outcome))
