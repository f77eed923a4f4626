"""The console's page of how the gateway is, in a real browser, and what stands behind it."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gateway.logs import RECENT_CHARS_MAX, RECENT_MAX, Recent
from tests.gateway.http.browser import complaints, violations
from tests.gateway.http.calls import call, create_topic, get, produce
from tests.gateway.http.test_topic_pages import until_text
from tests.gateway.launching import serving

WITHIN_S = 60.0
MARKUP = "<b>taken</b>"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_how_it_is(tmp_path: Path, browser: Chrome) -> None:
    """Fill, storage, snapshots, failures, disk, scales; when nobody answers, no number stays as if it were of now."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "orders", 4)
        produce(kafka, "orders", 0, 100)
        assert call(http, "POST", "/api/v1/streams/orders/scale", {"split": {"segment": 0}})[0] == 200
        browser.get(f"http://{http}/console/health.html")
        until_text(browser, "log", " %")
        until_text(browser, "disk-note", "free of ")
        until_text(browser, "events", "split by hand")
        assert browser.find_element(By.ID, "failed").text == "0"
        assert browser.find_element(By.ID, "no-concerns").is_displayed()
        assert (complaints(browser), violations(browser)) == ([], [])

        running.process.send_signal(signal.SIGSTOP)
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_element(By.ID, "stale").is_displayed())
        assert {one.text for one in browser.find_elements(By.CSS_SELECTOR, "#strip .number")} == {"\N{EN DASH}"}
        running.process.send_signal(signal.SIGCONT)
        until_text(browser, "log", " %")
        (log,) = get(http, "/api/v1/health")["logs"]
        assert 0 < log["log_bytes"] <= log["log_limit_bytes"]
        assert call(http, "GET", "/api/v1/warnings?limit=many")[0] == 400


def test_warnings_are_remembered_within_bounds() -> None:
    """The newest of them, each clipped, with its facts and without a traceback."""
    recent = Recent()
    for n in range(RECENT_MAX + 10):
        record = logging.LogRecord("gateway", logging.WARNING, "here.py", 1, "line %d", (n,), None)
        record.topic = MARKUP * 100
        recent.add(record)
    assert (len(recent.lines), recent.count) == (RECENT_MAX, RECENT_MAX + 10)
    _, level, text = recent.lines[-1]
    assert (level, len(text)) == ("warning", RECENT_CHARS_MAX)
    assert text.startswith(f"line {RECENT_MAX + 9} topic={MARKUP}")
