"""The console in a real browser."""

from __future__ import annotations

import re
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from gateway.http.console import Console
from tests.gateway.forking import serving
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.calls import call, create_topic, delete_topic, get, produce, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

WITHIN_S = 60.0
SHOWN = "document.getElementById('map').getAttribute('aria-label')"
ROW_COLOURS = """
const map = document.getElementById('map'), copy = document.createElement('canvas');
[copy.width, copy.height] = [1, map.height];
const context = copy.getContext('2d', { willReadFrequently: true });
context.drawImage(map, 3 - map.width, 0);
return [...Array(map.height).keys()].map((y) => context.getImageData(0, y, 1, 1).data.join());
"""
MIDDLE_COLOURS = """
const map = document.getElementById('map'), copy = document.createElement('canvas');
[copy.width, copy.height] = [map.width, 1];
const context = copy.getContext('2d', { willReadFrequently: true });
context.drawImage(map, 0, -Math.floor(map.height / 2));
return [...Array(map.width).keys()].map((x) => context.getImageData(x, 0, 1, 1).data.join());
"""
RED, PALE = "166,28,28,255", "234,240,245,255"
"""The ends of the ramp."""

A_SECOND_SHOWN = """
const choice = document.querySelector('#window input');
choice.value = 1;
choice.click();
document.getElementById('map').setAttribute('aria-label', '');
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        create_topic(ready["kafka"][0], "wide", 500)
        everything = {"split": {"segment": 0, "at": list(range(1, 500))}}
        assert call(ready["http"], "POST", "/api/v1/streams/wide/scale", everything)[0] == 200
        create_topic(ready["kafka"][0], "orders", 8)
        reader = Consumer({"bootstrap.servers": ready["kafka"][0], "group.id": "a-group-with-a-long-name"})
        reader.commit(offsets=[TopicPartition("orders", 0, 0)], asynchronous=False)
        reader.close()
        yield ready["kafka"][0], ready["http"]


def until_shown(browser: Chrome, text: str) -> None:
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: text in b.execute_script(f"return {SHOWN}"), text)


def test_a_split_is_seen(gateway: tuple[str, str], browser: Chrome) -> None:
    """While one watches: the map, its alternative in text, the counts and the events follow; nothing complains."""
    kafka, http = gateway
    produce(kafka, "orders", 0, 500)
    browser.get(f"http://{http}/#orders")
    until_shown(browser, "orders: 1 active segment,")
    browser.find_element(By.TAG_NAME, "summary").click()
    before = len(set(browser.execute_script(ROW_COLOURS)))

    split = {"split": {"segment": 0, "at": [2, 1]}}
    assert call(http, "POST", "/api/v1/streams/orders/scale", split)[0] == 200
    until_shown(browser, "orders: 3 active segments, 4 segments in the time shown")
    produce(kafka, "orders", 1, 5000)

    wait = WebDriverWait(browser, WITHIN_S, 0.05)
    wait.until(lambda b: len(set(b.execute_script(ROW_COLOURS))) >= 3)
    wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "#segments tr")) == 3)
    wait.until(lambda b: "segment 0 split by hand" in b.find_element(By.ID, "events").text)
    assert before == 1
    assert browser.find_element(By.ID, "segment-count").text == "3"
    assert browser.find_element(By.ID, "status-text").text == "Live"
    assert complaints(browser) == []
    assert violations(browser) == []


def test_the_keyboard(gateway: tuple[str, str], browser: Chrome) -> None:
    """Arrow keys go from segment to segment, and each is described in words."""
    kafka, http = gateway
    create_topic(kafka, "keys", 4)
    assert call(http, "POST", "/api/v1/streams/keys/scale", {"split": {"segment": 0}})[0] == 200
    browser.get(f"http://{http}/#keys")
    until_shown(browser, "keys: 2 active segments")
    canvas = browser.find_element(By.ID, "map")

    told = []
    for key in (Keys.END, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ESCAPE):
        canvas.send_keys(key)
        told.append(browser.find_element(By.ID, "readout").text)

    assert [text.split(":")[0] for text in told[:3]] == ["Segment 2", "Segment 1", "Segment 0"]
    assert "keys 0.50 to 1.00, 2 slots, container 0, node 1, active since" in told[0]
    assert "arrow keys" in told[3]


def test_a_sealed_stream(gateway: tuple[str, str], browser: Chrome) -> None:
    """A sealed stream's map ends when it was sealed, however long ago; the keyboard finds its last segments."""
    kafka, http = gateway
    create_topic(kafka, "ended", 4)
    assert call(http, "POST", "/api/v1/streams/ended/scale", {"split": {"segment": 0}})[0] == 200
    sealed_ms = call(http, "POST", "/api/v1/streams/ended/seal")[2]["sealed_ms"]
    until(lambda: get(http, "/api/v1/overview")["time_ms"] > sealed_ms + 2_000)
    browser.get(f"http://{http}/#ended")
    until_shown(browser, "ended: 0 active segments, 3 segments in the time shown")
    browser.execute_script(A_SECOND_SHOWN)
    until_shown(browser, "segments in the time shown")

    assert "0 segments in the time shown" not in browser.execute_script(f"return {SHOWN}")
    browser.find_element(By.ID, "map").send_keys(Keys.END)

    assert browser.find_element(By.ID, "readout").text.startswith("Segment 2: keys 0.50 to 1.00")
    assert browser.find_element(By.ID, "limits").text.startswith("Sealed at ")
    assert browser.find_element(By.ID, "axis-x").text.endswith("sealed")
    assert (complaints(browser), violations(browser)) == ([], [])


def test_no_stream(tmp_path: Path, browser: Chrome) -> None:
    """The page says what to do, and nothing is left of a stream that was there."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "last", 2)
        browser.get(f"http://{http}/")
        until_shown(browser, "last: 1 active segment")
        assert call(http, "POST", "/api/v1/streams/last/seal")[0] == 200
        notice = browser.find_element(By.ID, "limits")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda _: notice.is_displayed())

        delete_topic(kafka, "last")
        until_shown(browser, "There is no stream yet")

        assert "Produce a record" in browser.find_element(By.ID, "readout").text
        assert not notice.is_displayed()


def test_more_streams_than_are_listed(tmp_path: Path, browser: Chrome) -> None:
    """The list has a thousand; any other is shown to who has its address, and can be left again."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        admin = AdminClient({"bootstrap.servers": kafka})
        made = admin.create_topics([NewTopic(f"t{n:04}", 1, 1) for n in range(1_001)])
        assert {future.result(WITHIN_S) for future in made.values()} == {None}
        browser.get(f"http://{http}/#t1000")
        until_shown(browser, "t1000: 1 active segment")
        select = Select(browser.find_element(By.ID, "stream"))
        WebDriverWait(browser, WITHIN_S).until(lambda _: select.first_selected_option.text == "t1000")
        select.select_by_visible_text("t0007")
        until_shown(browser, "t0007: 1 active segment")

        assert complaints(browser) == []


def test_addresses(gateway: tuple[str, str], browser: Chrome) -> None:
    """A link to a stream shows it, also to who is here already; one that names nothing shows some stream."""
    kafka, http = gateway
    create_topic(kafka, "linked", 2)
    browser.get(f"http://{http}/#%")
    until_shown(browser, "active segment")
    browser.execute_script("location.hash = 'linked'")
    until_shown(browser, "linked: 1 active segment")

    assert browser.find_element(By.ID, "status-text").text == "Live"
    assert browser.execute_script("return document.getElementById('stream').value") == "linked"


def test_colours_of_what_nobody_watched(tmp_path: Path, browser: Chrome) -> None:
    """Load from before the page was opened has its place on the scale, though nothing comes now."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "scaler.time.factor=0.001") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "bygone", 1, penstock_scaling_policy="fixed")
        produce(kafka, "bygone", 0, 20_000)
        until(lambda: get(http, "/api/v1/streams/bygone")["rate_bytes"] < 1)
        browser.get(f"http://{http}/#bygone")
        until_shown(browser, "bygone: 1 active segment")
        WebDriverWait(browser, WITHIN_S).until(lambda b: b.find_element(By.ID, "in-rate").text.endswith("/s"))

        assert browser.find_element(By.ID, "ramp-max").text.endswith(("KiB/s", "MiB/s"))


def test_the_heat_of_before(tmp_path: Path, browser: Chrome) -> None:
    """The gateway remembers the loads of segments: a page that is opened, or loaded again, shows when one was hot."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "scaler.time.factor=0.01") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "warm", 1, penstock_scaling_policy="events", penstock_scaling_target_rate="10")

        def remembered() -> bool:
            produce(kafka, "warm", 0, 1_000)
            told = get(http, "/api/v1/streams/warm/heat?since_ms=0")
            return any((load or 0) >= 10 for one in told["segments"] for load in one["loads"])

        until(remembered)
        until(lambda: get(http, "/api/v1/streams/warm")["rate_events"] < 1)
        for visit in (browser.get, lambda _: browser.refresh()):
            visit(f"http://{http}/#warm")
            until_shown(browser, "warm: 1 active segment")
            WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: RED in b.execute_script(MIDDLE_COLOURS))
            cold = WebDriverWait(browser, WITHIN_S, 0.05)
            cold.until(lambda b: set(b.execute_script(ROW_COLOURS)) == {PALE}, "now it is cold")
        late = get(http, "/api/v1/streams/warm/heat?since_ms=4102444800000")
        assert (late["segments"], late["policy"]) == ([], "events")


def test_whose_a_segment_is(tmp_path: Path, browser: Chrome) -> None:
    """A segment tells its container, and the worker that serves it: pointed at, in the table, and over HTTP."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--workers", "2", "--set", "containers=2") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "spread", 4)
        told = until(lambda: _known_owners(get(http, "/api/v1/streams/spread/map")["segments"]))
        assert len({one["container"] for one in told}) == len({one["node"] for one in told}) == 2
        browser.get(f"http://{http}/#spread")
        until_shown(browser, "spread: 2 active segments")
        browser.find_element(By.ID, "map").send_keys(Keys.END)
        highest = max(told, key=lambda one: one["key_range"][1])
        owner = f"container {highest['container']}, node {highest['node']}"
        assert f", {owner}, active since" in browser.find_element(By.ID, "readout").text
        browser.find_element(By.TAG_NAME, "summary").click()
        cell = (By.CSS_SELECTOR, "#segments tr td:nth-child(4)")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_elements(*cell))
        assert browser.find_elements(*cell)[0].text == owner
        assert (complaints(browser), violations(browser)) == ([], [])


def _known_owners(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All segments, once each has a node."""
    return segments if all(one["node"] is not None for one in segments) else []


def test_heat_is_relative_to_the_target(gateway: tuple[str, str], browser: Chrome) -> None:
    """Red is the load from which a segment splits, whatever others get: the same load is pale below a high target."""
    kafka, http = gateway
    for name, target, label, colour in (
        ("hot", "100", "100 B/s: splits", RED),
        ("mild", str(2**40), "1 TiB/s: splits", PALE),
    ):
        create_topic(kafka, name, 1, penstock_scaling_target_rate=target)
        browser.get(f"http://{http}/#{name}")
        until_shown(browser, f"{name}: 1 active segment")
        produce(kafka, name, 0, 5_000)
        wait = WebDriverWait(browser, WITHIN_S, 0.05)
        wait.until(lambda b, colour=colour: colour in b.execute_script(ROW_COLOURS))
        assert browser.find_element(By.ID, "ramp-max").text == label
        assert (RED in browser.execute_script(ROW_COLOURS)) == (colour == RED)


@pytest.mark.parametrize("screen", ["dark", "phone"])
def test_other_looks(gateway: tuple[str, str], screen: str, browser: Chrome) -> None:
    """In the dark, and on a phone, with 500 segments: nothing complains, nothing is wider than the screen."""
    _, http = gateway
    phone = screen == "phone"
    look(browser, 390 if phone else 1280, 844, dark=screen == "dark", phone=phone)
    browser.get(f"http://{http}/#wide")
    until_shown(browser, "wide: 500 active segments")

    theme = browser.execute_script("return document.documentElement.dataset.theme")
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#groups tr"))
    lag = browser.find_element(By.XPATH, "//th[text()='Lag']").rect
    assert (theme, overflow) == ("light" if phone else "dark", 0)
    assert lag["x"] + lag["width"] <= (390 if phone else 1280)
    assert violations(browser) == []
    browser.get(f"http://{http}/api")
    assert violations(browser) == []
    assert complaints(browser) == []


def test_the_wheel_has_the_console() -> None:
    """The installed page is the tested one: all its files are data of the package."""
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["gateway"]

    packed = {path for pattern in patterns for path in (root / "gateway").glob(pattern)}

    assert {*(root / "gateway/http/pages").iterdir(), *(root / "gateway/http/static").iterdir()} <= packed


def test_headers(gateway: tuple[str, str]) -> None:
    """Pages load from here only, are framed by nobody, and are sent again only when they have changed."""
    _, http = gateway
    for path in ("/", *(f"/console/{name}" for name in Console().names - {"index.html"})):
        status, headers, content = call(http, "GET", path)
        policy = headers["Content-Security-Policy"]

        assert (status, call(http, "GET", path, If_None_Match=headers["ETag"])[0]) == (200, 304)
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"https?://[^\s\"'`)]+", content) in ([], ["http://www.w3.org/2000/svg"])
    assert call(http, "GET", "/console/..%2f..%2fbroker.py")[0] == 404


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_gateway_that_is_gone(tmp_path: Path, how: str, browser: Chrome) -> None:
    """Old numbers are not shown as new ones, neither when nobody answers nor while an answer is waited for."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "seen", 1)
        produce(kafka, "seen", 0, 100)
        browser.get(f"http://{http}/#seen")
        until_shown(browser, "seen: 1 active segment")
        wait = WebDriverWait(browser, WITHIN_S, 0.05)
        wait.until(lambda b: b.find_element(By.ID, "in-rate").text.endswith("/s"))
        browser.find_element(By.TAG_NAME, "summary").click()
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#segments tr"))
        assert not browser.find_element(By.ID, "stale").is_displayed()

        running.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        wait.until(lambda b: b.find_element(By.ID, "stale").is_displayed())

        assert browser.find_element(By.ID, "stale").text.startswith("The gateway has not answered since ")
        assert "does not answer" in browser.find_element(By.ID, "status-text").text
        for name in ("in-rate", "out-rate", "record-rate", "segment-count"):
            assert browser.find_element(By.ID, name).text == "\N{EN DASH}"
        rates = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#segments tr td:nth-child(6)")]
        assert rates == ["\N{EN DASH}"]
        assert not browser.find_element(By.ID, "axis-x").text.endswith("now")
        pictures = browser.execute_script(ROW_COLOURS), browser.execute_script(ROW_COLOURS)
        assert pictures[0] == pictures[1]
        assert violations(browser) == []

        if how == "kill":
            running.process.wait()
            with serving(tmp_path, "--http", http) as again:
                again.ready()
                until_live(browser)
        else:
            running.process.send_signal(signal.SIGCONT)
            until_live(browser)


def until_live(browser: Chrome) -> None:
    """The numbers are of now again, and nothing says otherwise."""
    wait = WebDriverWait(browser, WITHIN_S, 0.05)
    wait.until(lambda b: b.find_element(By.ID, "status-text").text == "Live")
    wait.until(lambda b: b.find_element(By.ID, "in-rate").text.endswith("/s"))
    assert not browser.find_element(By.ID, "stale").is_displayed()
    assert browser.find_element(By.ID, "axis-x").text.endswith("now")
    assert browser.title == "Penstock"
