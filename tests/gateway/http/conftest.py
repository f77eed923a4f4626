"""One browser for all tests of a module: it is fresh for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.gateway.http.browser import chromium, fresh


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Chrome) -> Chrome:
    fresh(one_browser)
    return one_browser
