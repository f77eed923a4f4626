"""Software of others beside Penstock: the short runs in CI, all of them in `make soak`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from compat_tests.ecosystem.__main__ import PAGE, TOOLS, page, remembered
from compat_tests.ecosystem.connect import goes_back_once

SHORT: Final = ("mirrormaker",)


@pytest.mark.parametrize("tool", TOOLS if os.environ.get("SOAK") else SHORT)
def test_runs_beside_penstock(tool: str, tmp_path: Path) -> None:
    finding = TOOLS[tool](tmp_path)
    assert f"| {finding.tool} | {finding.version} | {finding.what} |" in PAGE.read_text(), "make ecosystem writes it"


def test_a_sink_that_was_killed() -> None:
    """Its file may go back once, to what was committed, and have one torn line there; it lacks nothing."""
    lines = list("abcdef")
    for written in ("abcdef", "abcdcdef", "abcdabcdef", "abc?cdef", "abc?def"):
        assert goes_back_once(list(written), lines), written
    for written in ("", "abcde", "abcef", "abcdf", "abdcef", "abcdefabc", "abc?ef", "abcbcbcdef"):
        assert not goes_back_once(list(written), lines), written


def test_the_page_is_of_the_runs() -> None:
    """It is what the last runs showed, in the tools' order; a tool that never ran to its end has no row."""
    assert list(remembered()) == [name for name in TOOLS if name in remembered()]
    assert PAGE.read_text() == page(remembered())
