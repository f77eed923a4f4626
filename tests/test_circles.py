"""No circle of imports: what is found, how it is named, and that this tree has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def check(root: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / "check-circles"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def test_this_tree() -> None:
    """The packages that are free of circles stay so."""
    assert check(ROOT) == (0, "no circle of imports in gateway, core, tier2, bench, deploy\n")


def test_a_circle_of_types(tmp_path: Path) -> None:
    """An import for types alone counts, wherever in a module it stands; the way around is named."""
    package = tmp_path / "core"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("import core.b\n")
    (package / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from core.c import C\n")
    (package / "c.py").write_text("class C: ...\n")
    assert check(tmp_path)[0] == 0

    (package / "c.py").write_text("def late() -> None:\n    from core import a\n")
    assert check(tmp_path) == (1, "circle of imports: core.a -> core.b -> core.c -> core.a\n")
