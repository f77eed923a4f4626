"""What is asked of a list that is searched, sorted and cut by the gateway.

Keeps: a page has at most `LISTED_MAX` rows; rows that are equal in the wanted order are in that of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from starlette.requests import Request

from gateway.http.desk import INT_MAX, LISTED_MAX, number
from gateway.http.openapi import Parameter
from gateway.http.problems import Problem
from gateway.http.sorting import in_order

SEARCH_CHARS_MAX: Final = 249
"""As long as a topic's name."""

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Order(Generic[_R]):
    """The orders of a list: a row's value, by name. `default` has - in front if it begins with the largest."""

    of: Mapping[str, Callable[[_R], Any]]
    default: str
    page: int
    """Rows of an answer, unless more or fewer are asked for."""

    def parameters(self, what: str) -> Sequence[Parameter]:
        """What a request says, of topics or whatever the list has."""
        told = f"{', '.join(self.of)}; with - in front: largest first. Default: {self.default}"
        return (
            Parameter("search", f"Only {what} whose names contain this", "string"),
            Parameter("sort", told, "string"),
            Parameter("offset", f"Number of {what} to leave out. Default: 0"),
            Parameter("limit", f"Maximum number of {what}. Default: {self.page}, at most {LISTED_MAX}"),
        )

    def asked(self, request: Request) -> Asked:
        """Raises Problem."""
        sort = request.query_params.get("sort", self.default)
        order = sort.removeprefix("-")
        if order not in self.of:
            raise Problem(400, "Not understood", f"sort takes one of {', '.join(self.of)}, not {sort[:100]!r}")
        return Asked(
            search=request.query_params.get("search", "")[:SEARCH_CHARS_MAX].lower(),
            order=order,
            descending=sort != order,
            offset=number(request, "offset", 0, INT_MAX) or 0,
            limit=number(request, "limit", self.page, LISTED_MAX) or 0,
        )

    async def page_of(self, rows: Sequence[_R], asked: Asked) -> Sequence[_R]:
        """The part of these rows, which are sorted by name, that is asked for."""
        in_this_order = rows
        if asked.order != "name" or asked.descending:
            in_this_order = await in_order(rows, self.of[asked.order], descending=asked.descending)
        return in_this_order[asked.offset : asked.end]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    search: str
    order: str
    descending: bool
    offset: int
    limit: int

    @property
    def end(self) -> int:
        return self.offset + self.limit

    def fits(self, name: str) -> bool:
        return self.search in name.lower()
