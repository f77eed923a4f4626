"""Names of deleted topics: a bounded number of them."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.topics import former_names
from gateway.topics.former_names import FormerNames


def test_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond their bound the oldest goes first, and is answered as an id that nobody ever had."""
    monkeypatch.setattr(former_names, "NAMES_MAX", 2)
    names = FormerNames()
    for number in range(3):
        names.note(UUID(int=number), f"t{number}")

    assert [names.get(UUID(int=number)) for number in range(3)] == [None, "t1", "t2"]
