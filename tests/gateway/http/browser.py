"""A headless Chromium that looks at a gateway's pages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

AXE = Path(__file__).parent / "axe" / "axe.min.js"
WIDTH, HEIGHT = 1280, 1000
SERIOUS = ("serious", "critical")


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser; ends with the block."""
    options = ChromeOptions()
    options.binary_location = which("chromium") or "chromium"
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        "lang=en-GB",
        f"window-size={WIDTH},{HEIGHT}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, Service(which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: Chrome, width: int = WIDTH, height: int = HEIGHT, *, dark: bool = False, phone: bool = False) -> None:
    """Whose screen it is, and what colours they want."""
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def fresh(browser: Chrome) -> None:
    """As if it had just been started: no page, nothing that a page has stored, nothing that it has complained of."""
    if browser.current_url.startswith("http"):
        browser.execute_script("localStorage.clear(); sessionStorage.clear();")
    browser.get("about:blank")
    complaints(browser)
    look(browser)


def complaints(browser: Chrome) -> list[str]:
    """The messages of the browser's console."""
    return [entry["message"] for entry in browser.get_log("browser")]


def violations(browser: Chrome) -> list[str]:
    """Serious faults that axe-core finds."""
    browser.execute_script(AXE.read_text())
    found: dict[str, Any] = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [
        f"{fault['id']}: {fault['help']}: {[node['html'] for node in fault['nodes']]}"
        for fault in found["violations"]
        if fault["impact"] in SERIOUS
    ]
