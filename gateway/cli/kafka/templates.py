"""Generated records by a template: `{"id": {{seq}}, "user": "{{choice ann bob}}"}`.

Keeps: one template and one seed always make the same texts, `now` aside. Everything outside double braces is copied.
"""

from __future__ import annotations

import random
import re
import string
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from gateway.cli.refused import Refused
from gateway.exits import ExitCode

FORMS: Final = "seq, uuid, now, int LOW HIGH, float LOW HIGH, choice A B ..., hex N, text N"
LENGTH_MAX: Final = 1_000_000
_HOLE: Final = re.compile(r"\{\{\s*([a-z]+)((?:\s+[^\s{}]+)*)\s*\}\}")
Make = Callable[[int], str]


class Template:
    """A text with holes. Raises Refused for a hole that nothing fills."""

    def __init__(self, text: str, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._parts: list[str | Make] = []
        end = 0
        for hole in _HOLE.finditer(text):
            self._parts += [text[end : hole.start()], self._maker(hole[0], hole[1], hole[2].split())]
            end = hole.end()
        self._parts.append(text[end:])

    def made(self, number: int) -> str:
        """The text of the record with this number, from 0."""
        return "".join(part if isinstance(part, str) else part(number) for part in self._parts)

    def _maker(self, hole: str, name: str, given: Sequence[str]) -> Make:
        source = self._random
        try:
            match name, given:
                case "seq", []:
                    return str
                case "uuid", []:
                    return lambda _: str(uuid.UUID(int=source.getrandbits(128), version=4))
                case "now", []:
                    return lambda _: _now()
                case "int", [low, high] if int(low) <= int(high):
                    return lambda _: str(source.randint(int(low), int(high)))
                case "float", [low, high]:
                    return lambda _: f"{source.uniform(float(low), float(high)):.3f}"
                case "choice", [_, *_]:
                    return lambda _: source.choice(given)
                case "hex", [length] if 0 <= int(length) <= LENGTH_MAX:
                    return lambda _: source.randbytes((int(length) + 1) // 2).hex()[: int(length)]
                case "text", [length] if 0 <= int(length) <= LENGTH_MAX:
                    letters = string.ascii_lowercase + "     "
                    return lambda _: "".join(source.choices(letters, k=int(length)))
        except ValueError:  # what should be a number is none
            pass
        raise Refused(f"--template: {hole[:100]!r}: allowed in double braces: {FORMS}", ExitCode.CONFIGURATION)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
