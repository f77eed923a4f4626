"""Expositions of several processes as one, in Prometheus' text format.

Each sample gets a label with its process, so that sums, maxima and single processes can all be asked for. Lines are not
parsed beyond their name: values and labels pass as they are.

Invariant: a family's samples stand together, below one HELP and one TYPE line, as the format demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_created", "_total", "_info")


def merged(expositions: Mapping[str, str], label: str) -> str:
    """One exposition from those of several processes, by the value of `label` that each gets.

    Values of the label need no escaping: they are ours.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in expositions.items():
        tag = f'{label}="{process}"'
        family = ""
        for line in text.split("\n"):  # only this ends a line: a value may hold what Python takes for an end
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if not any(line.startswith(known[: 7 + len(family) + 1]) for known in head):
                    head.append(line)
            elif line and not line.startswith("#"):
                family = _family(line, family)
                samples.setdefault(family, []).append(_labelled(line, tag))
    lines = [line for family, found in samples.items() for line in (*heads.get(family, ()), *found)]
    return "\n".join(lines) + "\n" if lines else ""


def _family(line: str, current: str) -> str:
    """The family of a sample: that of the TYPE line above it, unless it stands alone."""
    name = _name(line)
    if name == current or any(name == current + suffix for suffix in _SUFFIXES):
        return current
    return name


def _name(line: str) -> str:
    brace, space = line.find("{"), line.find(" ")
    return line[: brace if 0 <= brace < space else space]


def _labelled(line: str, tag: str) -> str:
    name = _name(line)
    rest = line[len(name) :]
    if not rest.startswith("{"):
        return f"{name}{{{tag}}}{rest}"
    return f"{name}{{{tag}{rest[1:]}" if rest.startswith("{}") else f"{name}{{{tag},{rest[1:]}"
