"""What holds of every page of the console, and of those that come: for eyes, keyboards, phones, without a gateway."""

from __future__ import annotations

import contextlib

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gateway.http.console import INDEX, PAGES
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.picture_data import GROUP, TOPIC
from tests.gateway.http.pictures import served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

WITHIN_S = 60.0
PHONE = (390, 844)
QUERIES = {"topic": f"topic={TOPIC}", "messages": f"topic={TOPIC}&partition=0", "group": f"group={GROUP}"}
SHOWN = (
    "return document.querySelectorAll('main tbody tr').length > 0 && document.getElementById('status-text').textContent"
)
FOCUSED = "return document.activeElement.textContent.trim()"


@pytest.mark.parametrize("name", PAGES)
def test_a_page(name: str, browser: Chrome) -> None:
    """In the dark on a phone: no wider than the screen, nothing that axe finds serious, a way past the links for the
    keyboard. When the gateway is gone, it says since when, and is as readable."""
    look(browser, *PHONE, dark=True, phone=True)
    with contextlib.ExitStack() as gateway:
        address = gateway.enter_context(served())
        browser.get(f"{address}/{'' if name == INDEX else f'console/{name}.html'}?{QUERIES.get(name, '')}")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.execute_script(SHOWN) == "Live", name)

        assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") == 0
        assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        assert browser.execute_script(FOCUSED) == f"Skip to {PAGES[name].what}"
        assert (complaints(browser), violations(browser)) == ([], [])

    stale = browser.find_element(By.ID, "stale")
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda _: stale.is_displayed())
    assert stale.text.startswith("The gateway has not answered since ")
    assert violations(browser) == []
