"""The documents as a site: a link or an anchor that leads nowhere ends the build; nothing is from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.slow

REPOSITORY: Final = Path(__file__).resolve().parents[2]
BUILD_S_MAX: Final = 100
LOADED: Final = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"'\s>]+)|<link[^>]*\shref=[\"']?([^\"'\s>]+)")


def build(repository: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [repository / "scripts/docs", site], capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY, place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_every_page_is_there(site: Path) -> None:
    """Each page of `docs` is one of the site, and each that operators read is in its table of contents."""
    pages = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob("*.md")]
    contents = (REPOSITORY / "mkdocs.yml").read_text()

    for page in pages:
        made = site / page.with_suffix(".html") if page.name != "README.md" else site / page.parent / "index.html"
        assert made.exists(), page
    named = set(re.findall(r"docs/\S+\.md", contents))
    assert {str(page) for page in pages if page.parent.name in {"operating", "internals"}} <= named


def test_nothing_from_other_hosts(site: Path) -> None:
    """A reader's browser asks the site and nobody else."""
    loaded = {
        one
        for page in site.rglob("*.html")
        for found in LOADED.findall(page.read_text())
        for one in found
        if one.startswith(("http:", "https:", "//"))
    }

    assert loaded == set()
    assert "fonts.googleapis" not in (site / "index.html").read_text()


@pytest.mark.parametrize("broken", ["[gone](gone.md)", "[gone](runbook.md#no-such-heading)"])
def test_a_broken_link_ends_the_build(tmp_path: Path, broken: str) -> None:
    """Of a page or of a heading, with the page that has it."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("docs", "examples", "deploy", "scripts"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("node_modules", "target"))
    shutil.copytree(REPOSITORY / "bench/results", copy / "bench/results")
    (copy / "compat_tests").mkdir()
    for path in (*REPOSITORY.glob("*.md"), REPOSITORY / "mkdocs.yml", REPOSITORY / "LICENSE"):
        shutil.copy(path, copy)
    shutil.copy(REPOSITORY / "compat_tests/README.md", copy / "compat_tests")
    (copy / ".venv").symlink_to(REPOSITORY / ".venv")
    page = copy / "docs/operating/howto.md"
    page.write_text(f"{page.read_text()}\n{broken}\n")

    done = build(copy, tmp_path / "site")

    assert done.returncode != 0
    assert "docs/operating/howto.md" in done.stdout + done.stderr
