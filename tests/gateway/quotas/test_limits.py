"""Which quota holds for a client: Kafka's order."""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from gateway.quotas.limits import CLIENT_ID, USER, Limit, Parts, limit_of

ORDER: Final[list[tuple[Parts, tuple[str | None, str | None]]]] = [
    (frozenset({(USER, "u"), (CLIENT_ID, "c")}), ("u", "c")),
    (frozenset({(USER, "u"), (CLIENT_ID, None)}), ("u", "c")),
    (frozenset({(USER, "u")}), ("u", None)),
    (frozenset({(USER, None), (CLIENT_ID, "c")}), ("u", "c")),
    (frozenset({(USER, None), (CLIENT_ID, None)}), ("u", "c")),
    (frozenset({(USER, None)}), ("u", None)),
    (frozenset({(CLIENT_ID, "c")}), (None, "c")),
    (frozenset({(CLIENT_ID, None)}), (None, "c")),
]
"""Entities, the strongest first, and whose rate each bounds for user u with client id c."""


@pytest.mark.parametrize(("first", "second"), itertools.combinations(range(len(ORDER)), 2))
def test_the_first_counts(first: int, second: int) -> None:
    """Of two entities that fit, the one that is first in Kafka's order decides, even with the higher limit."""
    (strong, whose), (weak, _) = ORDER[first], ORDER[second]
    assert limit_of({weak: 1.0, strong: 9.0}, "u", "c") == Limit(9.0, *whose)


@pytest.mark.parametrize("parts", [parts for parts, _ in ORDER])
def test_others(parts: Parts) -> None:
    """A named entity is not another client's; a default is everybody's."""
    is_default = all(name is None for _, name in parts)
    assert (limit_of({parts: 1.0}, "v", "d") is not None) is is_default
