"""Sizes and times with units, as people write them: `256MiB`, `7d`.

Keeps: a number without a unit keeps its meaning, which is the key's own unit. A unit is taken only where the key's name
says that it counts bytes or time, and only if the result is a whole number of the key's unit.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.config.units import DAY_MS, GIB, HOUR_MS, KIB, MIB, SECOND_MS

MINUTE_MS: Final = 60 * SECOND_MS
SIZES: Final = {
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "t": 1024 * GIB,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
TIMES: Final = {
    "ms": 1,
    "s": SECOND_MS,
    "sec": SECOND_MS,
    "m": MINUTE_MS,
    "min": MINUTE_MS,
    "h": HOUR_MS,
    "d": DAY_MS,
    "w": 7 * DAY_MS,
}
SIZES_HINT: Final = "a size is a number with B, KiB, MiB, GiB or TiB, such as 256MiB"
TIMES_HINT: Final = "a time is a number with ms, s, min, h, d or w, such as 7d"
_QUANTITY: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{1,4})")


def size_of(text: str) -> int | None:
    """Bytes of `256MiB`; None if it has no such form."""
    return _scaled(text, SIZES, 1)


def time_ms_of(text: str) -> int | None:
    """Milliseconds of `7d`; None if it has no such form."""
    return _scaled(text, TIMES, 1)


def in_unit_of(key: str, text: str) -> str:
    """The number that stands for a text with a unit in the unit of a key; any other text as it is.

    Raises ValueError for a unit that is not one of the key's, and for what is no whole number of the key's unit.
    """
    told = _unit_of(key)
    if told is None or _QUANTITY.fullmatch(text.strip()) is None:
        return text
    units, one, hint = told
    scaled = _scaled(text, units, one)
    if scaled is None:
        raise ValueError(hint if one == 1 else f"{hint}, and a whole number of {key.rpartition('.')[2]} here")
    return str(scaled)


def _unit_of(key: str) -> tuple[dict[str, int], int, str] | None:
    last = key.replace("_", ".").rpartition(".")[2]
    if last == "bytes":
        return SIZES, 1, SIZES_HINT
    times = {"ms": 1, "seconds": SECOND_MS, "minutes": MINUTE_MS, "hours": HOUR_MS}
    return (TIMES, times[last], TIMES_HINT) if last in times else None


def _scaled(text: str, units: dict[str, int], one: int) -> int | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        return None
    whole, _, part = match[1].partition(".")
    scale = 10 ** len(part)
    number, rest = divmod(int(whole + part) * units[match[2].lower()], scale * one)
    return None if rest else number
