"""The pictures in the documents are of the console as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.gateway.http.pictures import ALL, BYTES_MAX, PICTURES, Picture, difference, take

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

ROOT = PICTURES.parents[1]
DIFFERENCE_MAX = 6.0
"""Of 255: another machine's letters make less than half of it, a panel that is gone or elsewhere makes more."""


@pytest.mark.parametrize("picture", ALL, ids=lambda picture: picture.name)
def test_a_picture_is_of_now(picture: Picture, browser: Chrome, tmp_path: Path) -> None:
    """Taken again, it looks the same, save for other machines' letters; it is small."""
    taken = take(browser, picture)
    (tmp_path / picture.file).write_bytes(taken)

    found = difference(browser, taken, (PICTURES / picture.file).read_bytes())

    assert found < DIFFERENCE_MAX, f"`make pictures` takes {picture.file} again; {tmp_path} has the new one"
    assert max(len(taken), (PICTURES / picture.file).stat().st_size) < BYTES_MAX


def test_pictures_that_differ(browser: Chrome) -> None:
    """Two pages are not taken for one another, nor is a page in the dark for the same by day."""
    overview, dark, messages, *_ = [(PICTURES / picture.file).read_bytes() for picture in ALL]

    assert difference(browser, overview, overview) == 0
    assert difference(browser, overview, messages) > DIFFERENCE_MAX
    assert difference(browser, overview, dark) > DIFFERENCE_MAX


def test_every_picture_is_shown() -> None:
    """Some page of the documents has it, with words for those who do not see it; and no other lies there."""
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    shown = set(re.findall(r"!\[[^\]]{20,}\]\([^)\s]*pictures/([\w-]+\.webp)\)", pages))

    assert shown == {picture.file for picture in ALL} == {path.name for path in PICTURES.iterdir()}
