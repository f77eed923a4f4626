"""What a run of somebody else's software showed, for the page of compatibility."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was run, in words for the page; `result` likewise. A run that shows anything wrong raises instead."""

    tool: str
    version: str
    what: str
    result: str
