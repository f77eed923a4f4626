"""Regular expressions that clients send, matched in time linear to the text.

Keeps: an expression of RE2's syntax and of bounded size, and no other, is compiled: Java's look-around and
back-references are refused, because nothing bounds the time that they take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import re2

PATTERN_CHARS_MAX: Final = 1_000
"""Characters of one regular expression."""
PATTERN_BYTES_MAX: Final = 1024 * 1024
"""Memory of one compiled expression."""


class BadPattern(ValueError):
    """The text is no regular expression that is served; the message is for its client."""


def whole_match(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether the expression matches all of a text. Raises BadPattern."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise BadPattern(f"a regular expression has {PATTERN_CHARS_MAX} characters at most, not {len(pattern)}")
    options = re2.Options()
    options.log_errors = False  # a client's mistake is no line on our standard error
    options.max_mem = PATTERN_BYTES_MAX
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as wrong:
        why = wrong.args[0] if wrong.args else wrong
        raise BadPattern(why.decode(errors="replace") if isinstance(why, bytes) else str(why)) from None
    return lambda text: compiled.fullmatch(text) is not None
