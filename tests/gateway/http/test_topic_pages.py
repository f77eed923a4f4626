"""The console's pages of one topic in a real browser: what it is, what is in it, and what somebody changes there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.gateway.forking import serving
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.calls import call, create_topic, get, produce

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

WITHIN_S = 60.0
MARKUP = "<img src=x onerror=\"document.title='taken'\">"
ELEMENTS_MAX = 6_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        create_topic(ready["kafka"][0], "orders", 2)
        producer = Producer({"bootstrap.servers": ready["kafka"][0]})
        for n in range(200):
            value = json.dumps({"number": n, "text": MARKUP})
            producer.produce("orders", value, f"key {n % 10}", partition=0, headers={"source": MARKUP})
        producer.produce("orders", b"\xff\x00\x41", None, partition=1)
        assert producer.flush(WITHIN_S) == 0
        reader = Consumer({"bootstrap.servers": ready["kafka"][0], "group.id": MARKUP})
        reader.commit(offsets=[TopicPartition("orders", 0, 150)], asynchronous=False)
        reader.close()
        yield ready["kafka"][0], ready["http"]


def until_text(browser: Chrome, name: str, text: str) -> None:
    """The element with this id has this text in it."""
    there = "return document.getElementById(arguments[0]).textContent"
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: text in b.execute_script(there, name), (name, text))


def row(browser: Chrome, body: str, number: int = 0) -> list[str]:
    cells = f"return [...document.getElementById('{body}').children[{number}].children].map((one) => one.textContent)"
    told: list[str] = browser.execute_script(cells)
    return told


def test_what_a_topic_is(gateway: tuple[str, str], browser: Chrome) -> None:
    """Its partitions with offsets, its map, the groups that read it with their lag on it; markup is text."""
    _, http = gateway
    browser.get(f"http://{http}/console/topic.html?topic=orders")
    until_text(browser, "readers", MARKUP)
    until_text(browser, "partitions", "200")

    assert row(browser, "partitions")[:5] == ["0", "0", "0", "200", "200"]
    assert row(browser, "partitions", 1)[3] == "1"
    assert row(browser, "readers")[1:3] == ["50", "1"]
    assert "orders: 1 active segment" in browser.find_element(By.ID, "map").get_attribute("aria-label")
    assert browser.title == "orders - Penstock"
    assert (complaints(browser), violations(browser)) == ([], [])


def test_a_configuration_is_changed(gateway: tuple[str, str], browser: Chrome) -> None:
    """What is wrong is refused in Kafka's words; what is right is in effect at once, and can be taken back."""
    kafka, http = gateway
    create_topic(kafka, "changed", 1)
    look(browser, 390, 844, dark=True, phone=True)
    browser.get(f"http://{http}/console/topic.html?topic=changed")
    name, value = browser.find_element(By.ID, "config-name"), browser.find_element(By.ID, "config-value")
    until_text(browser, "no-configs", "Nothing is set")
    name.send_keys("retention.ms", Keys.TAB)
    until_text(browser, "config-doc", "Inherited: 604800000")
    value.clear()
    value.send_keys("soon", Keys.ENTER)
    until_text(browser, "config-failure", "Invalid value soon for configuration retention.ms")
    assert get(http, "/api/v1/topics?search=changed")["topics"][0]["retention_ms"] == 604_800_000

    value.clear()
    value.send_keys("3600000", Keys.ENTER)
    until_text(browser, "configs", "3600000 (1 h)")
    configs = get(http, "/api/v1/topics/changed/configs")["configs"]
    assert [one["value"] for one in configs if one["source"] == "topic"] == ["3600000"]
    assert (complaints(browser)[1:], violations(browser)) == ([], [])  # the first is the refusal

    browser.find_element(By.ID, "reset").click()
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_element(By.ID, "no-configs").is_displayed())
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow == 0


def test_changes_of_a_configuration_over_http(gateway: tuple[str, str]) -> None:
    """A dry run changes nothing; a change is made as a whole or not at all."""
    kafka, http = gateway
    create_topic(kafka, "bare", 1)
    path = "/api/v1/topics/bare/configs"
    assert call(http, "PATCH", path, {"set": {"retention.ms": "5000"}, "dry_run": True})[0] == 200
    assert call(http, "PATCH", path, {"set": {"retention.ms": "5000", "no.such": "1"}})[0] == 400
    assert call(http, "PATCH", path, {"set": {"retention.ms": "5000"}, "reset": ["retention.ms"]})[0] == 400
    assert [one for one in get(http, path)["configs"] if one["source"] == "topic"] == []
    assert call(http, "PATCH", "/api/v1/topics/nothing/configs", {"reset": ["retention.ms"]})[0] == 404


def test_browsing(gateway: tuple[str, str], browser: Chrome) -> None:
    """The newest first; older ones; from an offset, a time, by key; a message as JSON, text and bytes; downloads."""
    _, http = gateway
    browser.get(f"http://{http}/console/messages.html?topic=orders&partition=0")
    until_text(browser, "count", "50 messages, the newest first")
    assert row(browser, "messages")[:2] == ["199", "0"]
    browser.find_element(By.ID, "older").click()
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: row(b, "messages")[0] == "149")

    Select(browser.find_element(By.ID, "from")).select_by_value("offset")
    browser.find_element(By.ID, "offset").send_keys(Keys.BACKSPACE, "20", Keys.ENTER)
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: row(b, "messages")[0] == "69")

    Select(browser.find_element(By.ID, "from")).select_by_value("newest")
    browser.find_element(By.ID, "key").send_keys("key 7", Keys.ENTER)
    until_text(browser, "count", "20 messages with this key")
    assert (row(browser, "messages")[0], row(browser, "messages")[3]) == ("197", "key 7")

    browser.find_element(By.CSS_SELECTOR, "#messages button").click()
    until_text(browser, "one-heading", "Message 197 of partition 0")
    assert '"number": 197' in browser.find_element(By.ID, "one-value").text
    assert browser.find_element(By.ID, "one-headers").text == f"source: {MARKUP}"
    Select(browser.find_element(By.ID, "as")).select_by_value("hex")
    assert browser.find_element(By.ID, "one-value").text.startswith("00000000  7b 22 6e 75 6d 62 65 72")
    assert browser.execute_script("return document.querySelectorAll('main img').length") == 0
    assert browser.title == "Messages of orders - Penstock"
    assert (complaints(browser), violations(browser)) == ([], [])


def test_browsing_by_time(gateway: tuple[str, str], browser: Chrome) -> None:
    """From a moment on, of one partition and of all together; a time after all of them finds none; steps are of one."""
    kafka, http = gateway
    create_topic(kafka, "dated", 2, retention_ms="-1")
    producer = Producer({"bootstrap.servers": kafka})
    noon_ms = 1_767_268_800_000  # 2026-01-01T12:00:00Z
    for n in range(10):
        producer.produce("dated", f"value {n}", partition=n % 2, timestamp=noon_ms + n * 60_000)
    assert producer.flush(WITHIN_S) == 0

    def shown_from(time: str) -> list[str]:
        Select(browser.find_element(By.ID, "from")).select_by_value("time")
        browser.execute_script("document.getElementById('time').value = arguments[0]", time)
        browser.find_element(By.CSS_SELECTOR, "#ask button[type=submit]").click()
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: "Looking" not in b.find_element(By.ID, "count").text)
        return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#messages td:last-child")]

    browser.get(f"http://{http}/console/messages.html?topic=dated")
    until_text(browser, "count", "10 messages")
    older = browser.find_element(By.ID, "older")
    assert not older.is_enabled()
    assert shown_from("2026-01-01T12:06:30") == ["value 9", "value 8", "value 7"]
    assert shown_from("2026-01-01T12:30:00") == []
    until_text(browser, "count", "There are no messages here")

    Select(browser.find_element(By.ID, "partition")).select_by_value("1")
    assert shown_from("2026-01-01T12:05:00") == ["value 9", "value 7", "value 5"]
    assert older.is_enabled()
    older.click()
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: row(b, "messages")[4] == "value 3")
    assert (complaints(browser), violations(browser)) == ([], [])


def test_downloads(gateway: tuple[str, str], tmp_path: Path, browser: Chrome) -> None:
    """All that is shown as lines of JSON; one message's value as its bytes."""
    _, http = gateway
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(f"http://{http}/console/messages.html?topic=orders&partition=1")
    until_text(browser, "count", "1 message,")
    browser.find_element(By.ID, "save").click()
    browser.find_element(By.CSS_SELECTOR, "#messages button").click()
    browser.find_element(By.ID, "save-one").click()
    lines, value = tmp_path / "orders.jsonl", tmp_path / "orders-1-0"
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda _: lines.exists() and value.exists())

    (told,) = [json.loads(line) for line in lines.read_text().splitlines()]
    assert (told["offset"], told["value"]) == (0, {"base64": "/wBB"})
    assert value.read_bytes() == b"\xff\x00\x41"


def test_live(gateway: tuple[str, str], browser: Chrome) -> None:
    """What comes while one watches is shown, of all partitions, and the page keeps only the newest of it."""
    kafka, http = gateway
    create_topic(kafka, "lively", 2)
    browser.get(f"http://{http}/console/messages.html?topic=lively")
    until_text(browser, "count", "There are no messages here")
    browser.find_element(By.ID, "live").click()
    time.sleep(1.5)  # it has asked where the ends are
    produce(kafka, "lively", 0, 700, size=20)
    produce(kafka, "lively", 1, 1, size=20)
    until_text(browser, "count", "500 messages")

    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: "1" in {row(b, "messages", n)[1] for n in range(3)})
    assert len(browser.find_elements(By.XPATH, "//*")) < ELEMENTS_MAX
    assert complaints(browser) == []


def test_a_message_is_produced(gateway: tuple[str, str], browser: Chrome) -> None:
    """With a key and headers, to the partition that was chosen; its bytes are what was typed."""
    kafka, http = gateway
    create_topic(kafka, "typed", 2)
    browser.get(f"http://{http}/console/messages.html?topic=typed")
    until_text(browser, "count", "There are no messages here")
    browser.find_element(By.CSS_SELECTOR, "#produce summary").click()
    Select(browser.find_element(By.ID, "new-partition")).select_by_value("1")
    browser.find_element(By.ID, "new-key").send_keys("k")
    browser.find_element(By.ID, "new-headers").send_keys("source: till")
    browser.find_element(By.ID, "new-value").send_keys('{"paid": "é"}')
    browser.find_element(By.CSS_SELECTOR, "#new button").click()
    until_text(browser, "new-done", "Stored at offset 0 of partition 1")

    (record,) = get(http, "/api/v1/topics/typed/records?partition=1&offset=0")["records"]
    assert (record["key"], record["value"]) == ("k", '{"paid": "é"}')
    assert record["headers"] == [{"name": "source", "value": "till"}]
    assert (complaints(browser), violations(browser)) == ([], [])


def test_a_gateway_with_a_token(tmp_path: Path, browser: Chrome) -> None:
    """It shows messages, and takes a change, only from somebody who knows the token; the page asks for it."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "http.token=secret") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "closed", 1)
        produce(kafka, "closed", 0, 3)
        assert call(http, "PATCH", "/api/v1/topics/closed/configs", {"reset": ["retention.ms"]})[0] == 401
        browser.get(f"http://{http}/console/messages.html?topic=closed")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_elements(By.ID, "token"))
        assert "http.token" in browser.find_element(By.ID, "failure").text
        browser.find_element(By.ID, "token").send_keys("secret", Keys.ENTER)
        until_text(browser, "count", "3 messages")
        assert violations(browser) == []
