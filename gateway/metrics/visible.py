"""Names that clients chose, made safe for a terminal.

Keeps: no character in a result moves a cursor, sets a colour or turns the direction of text, and different names stay
different.
"""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def visible(name: str) -> str:
    """The name, with backslashes and the characters that a terminal acts on in Python's escapes."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), name)
