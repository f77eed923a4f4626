"""Regular expressions over topics, in the syntax of RE2 (KIP-848).

Keeps: matching takes time in proportion to the name, whatever the expression (RE2 has no backtracking); a compiled
expression has a bounded size; what would keep the loop for long is done in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, Final

import re2
from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal

COMPILED_MAX: Final = 1_000
"""Expressions kept compiled: some KB each, at most `COMPILED_BYTES_MAX`."""
COMPILED_BYTES_MAX: Final = 1 << 20
NAMES_AT_ONCE: Final = 2_000
"""Names that expressions are held against at once: some 10 ms."""
SHOWN_CHARS_MAX: Final = 200


def check(pattern: str) -> None:
    """Raises Refusal with INVALID_REGULAR_EXPRESSION and the reason."""
    _compiled(pattern)


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that the whole expression matches. Raises Refusal."""
    matches = _compiled(pattern).fullmatch
    return frozenset(name for name in names if matches(name) is not None)


async def matching_each(patterns: Collection[str], names: Callable[[], Iterable[str]]) -> dict[str, frozenset[str]]:
    """The names that each expression matches, found in a thread if they are many. All expressions are valid."""
    known = list(names())
    if len(known) * len(patterns) <= NAMES_AT_ONCE:
        return {pattern: matching(pattern, known) for pattern in patterns}
    return await asyncio.to_thread(lambda: {pattern: matching(pattern, known) for pattern in patterns})


@lru_cache(maxsize=COMPILED_MAX)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = COMPILED_BYTES_MAX
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        reason = exc.args[0] if exc.args else exc
        told = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        shown = pattern[:SHOWN_CHARS_MAX]
        why = f"SubscribedTopicRegex `{shown}` is not a valid regular expression: {told[:SHOWN_CHARS_MAX]}."
        raise Refusal(ErrorCode.invalid_regular_expression, why) from exc
