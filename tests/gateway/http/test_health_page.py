"""The console's page of how the gateway is, in a real browser, and what stands behind it."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gateway.http.node_models import ContainerView, NodeList, NodeView, Stage, State
from gateway.logs import RECENT_CHARS_MAX, RECENT_MAX, Recent
from tests.gateway.forking import serving
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.calls import call, create_topic, get, produce
from tests.gateway.http.picture_data import NOW_MS
from tests.gateway.http.pictures import served
from tests.gateway.http.test_topic_pages import row, until_text

WITHIN_S = 60.0
MARKUP = "<b>taken</b>"


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_how_it_is(tmp_path: Path, browser: Chrome) -> None:
    """Fill, storage, snapshots, failures, disk, scales, warnings; when nobody answers, no number stays as if it were of
    now."""
    for_all = ("--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0=127.0.0.1")  # which a start warns of
    with serving(tmp_path, "--http", "127.0.0.1:0", *for_all) as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "orders", 4)
        produce(kafka, "orders", 0, 100)
        assert call(http, "POST", "/api/v1/streams/orders/scale", {"split": {"segment": 0}})[0] == 200
        browser.get(f"http://{http}/console/health.html")
        until_text(browser, "log", " %")
        until_text(browser, "disk-note", "free of ")
        until_text(browser, "events", "split by hand")
        until_text(browser, "warnings", "it asks nobody who they are")
        assert row(browser, "warnings")[1] == "warning"
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


def node(number: int, state: State, *concerns: str, gone_s: float | None = None) -> NodeView:
    connections = 7 if state in ("serving", "draining", "not ready") else None
    return NodeView(id=number, state=state, concerns=list(concerns), connections=connections, gone_s=gone_s)


def container(number: int, owner: int, stage: Stage = "serving", going_to: int = -1) -> ContainerView:
    return ContainerView(id=number, node=owner, epoch=3, stage=stage, going_to=going_to)


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("certain", [True, False])
def test_nodes_of_a_cluster(certain: bool, browser: Chrome) -> None:
    """Who serves what, who takes over what, who is silent or gone, and what nobody serves: also to one on a phone."""
    told = NodeList(
        time_ms=NOW_MS,
        certain=certain,
        nodes=[
            node(1, "serving"),
            node(2, "draining", MARKUP),
            node(3, "not ready", "container 5 is being opened"),
            node(4, "silent"),
            node(5, "gone", gone_s=95.0).model_copy(update={"served": [4, 9]}),
            node(6, "gone"),
            node(7, "stopped", gone_s=7_200.0),
        ],
        containers=[
            container(0, 1),
            container(1, 2, going_to=1),
            container(2, 3, "opening"),
            container(3, 4),
            container(4, -1, "nobody"),
        ],
    )
    look(browser, 390, 844, dark=True, phone=True)
    with served(nodes=told) as address:
        browser.get(f"{address}/console/health.html")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "#nodes tr")) == 7)
        assert [row(browser, "nodes", n) for n in range(7)] == [
            ["1", "serving", "0", "7", ""],
            ["2", "draining", "1 \N{RIGHTWARDS ARROW} 1", "7", f"gives its containers away; {MARKUP}"],
            ["3", "not ready", "2 (opening)", "7", "container 5 is being opened"],
            [
                "4",
                "silent",
                "3",
                "\N{EN DASH}",
                "lives, and has not answered: what is its own is missing on these pages",
            ],
            ["5", "gone", "\N{EN DASH}", "\N{EN DASH}", "ended 95 s ago, with containers 4, 9"],
            ["6", "gone", "\N{EN DASH}", "\N{EN DASH}", "ended, and nobody heard when"],
            ["7", "stopped", "\N{EN DASH}", "\N{EN DASH}", "ended 2 h ago"],
        ]
        note = (
            "2 containers served by nobody: 2, 4" if certain else "outdated: the node that answers has lost its lease"
        )
        assert browser.find_element(By.ID, "nodes-note").text == note
        panel = browser.find_element(By.ID, "nodes-panel")
        assert "warns" in (panel.get_attribute("class") or "").split()
        assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") == 0
        assert (complaints(browser), violations(browser)) == ([], [])

    healthy = NodeList(time_ms=NOW_MS, certain=True, nodes=[node(1, "serving")], containers=[container(0, 1)])
    with served(nodes=healthy) as address:
        browser.get(f"{address}/console/health.html")
        until_text(browser, "log", " %")
        assert not browser.find_element(By.ID, "nodes-panel").is_displayed(), "one gateway alone needs no list of nodes"


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
