"""The configuration as a list of rows: a part of it, by sections, and as a file to start from.

Keeps: a file that is printed here is read again as the same configuration; a secret is in none.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.config.fields import HIDDEN
from gateway.config.loading import TITLES

Row = Mapping[str, Any]
COLUMNS: Final = 100


def chosen(rows: Sequence[Row], text: str, *, changed: bool) -> list[Row]:
    """The rows with a text in key or meaning, in any case, section by section; with `changed` only what is set."""
    wanted = text.lower()
    found = [
        row
        for row in rows
        if (wanted in row["key"].lower() or wanted in row["doc"].lower())
        and not (changed and row["source"] == "default")
    ]
    order = [*dict.fromkeys(TITLES.values()), "Other"]
    return sorted(found, key=lambda row: order.index(row["section"]))


def as_toml_file(rows: Sequence[Row]) -> str:
    """TOML: what is set, and what is not as a comment with its default. Keys are quoted, as some begin others."""
    return "".join(f"{line}\n" for line in _lines(rows))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    section = None
    for row in rows:
        if row["section"] != section:
            section = row["section"]
            yield f"# ---- {section} ----"
            yield ""
        yield from (f"# {line}" for line in textwrap.wrap(row["doc"], COLUMNS))
        is_set = row["source"] != "default" and row["value"] not in (None, HIDDEN)
        shown = row["value"] if row["value"] not in (None, HIDDEN) else ""
        yield f"{'' if is_set else '#'}{json.dumps(row['key'])} = {json.dumps(shown, ensure_ascii=False)}"
        yield ""
