"""The console's list of topics in a real browser, and the API behind it, with ten thousand of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.gateway.forking import serving
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.calls import call, create_topic, get, produce, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

WITHIN_S = 60.0
MANY = 10_000
PAGE = 50
ELEMENTS_MAX = 1_500
"""Elements of the whole page, whatever the number of topics."""
ANSWER_BYTES_MAX = 20_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway with many topics; one of them is large, and read by a group."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        admin = AdminClient({"bootstrap.servers": kafka})
        for first in range(0, MANY, 2_500):
            made = admin.create_topics([NewTopic(f"t{n:05}", 1, 1) for n in range(first, first + 2_500)])
            assert {future.result(WITHIN_S) for future in made.values()} == {None}
        create_topic(kafka, "Large.orders", 3, retention_ms="3600000", retention_bytes="1048576")
        produce(kafka, "Large.orders", 1, 300)
        reader = Consumer({"bootstrap.servers": kafka, "group.id": "readers"})
        reader.commit(offsets=[TopicPartition("Large.orders", 1, 100)], asynchronous=False)
        reader.close()
        yield kafka, http


def names(browser: Chrome) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#rows th")]


def until_first(browser: Chrome, name: str) -> None:
    """The list begins with this topic."""
    first = "return document.querySelector('#rows th')?.textContent"
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.execute_script(first) == name, name)


def test_pages_of_ten_thousand_topics(gateway: tuple[str, str], browser: Chrome) -> None:
    """A page shows fifty of them, and asks for no more; one goes on and back, searches, and sorts all of them."""
    _, http = gateway
    browser.get(f"http://{http}/console/topics.html")
    until_first(browser, "Large.orders")
    assert len(names(browser)) == PAGE
    assert browser.find_element(By.ID, "count").text == "1 to 50 of 10,001"
    assert len(browser.find_elements(By.XPATH, "//*")) < ELEMENTS_MAX

    browser.find_element(By.ID, "next").click()
    until_first(browser, "t00049")
    browser.find_element(By.ID, "search").send_keys("T0999")
    until_first(browser, "t09990")
    assert browser.find_element(By.ID, "count").text == "1 to 10 of 10 (10,001 topics in all)"
    assert browser.find_element(By.ID, "previous").get_property("disabled")

    browser.find_element(By.ID, "search").send_keys(Keys.BACKSPACE * 5)
    until_first(browser, "Large.orders")
    head = browser.find_element(By.CSS_SELECTOR, "th[data-order=name] button")
    head.send_keys(Keys.ENTER)
    until_first(browser, "t09999")
    browser.find_element(By.CSS_SELECTOR, "th[data-order=bytes] button").send_keys(Keys.ENTER)
    until_first(browser, "Large.orders")
    sorted_by = browser.find_element(By.CSS_SELECTOR, "th[aria-sort]")
    assert (sorted_by.text, sorted_by.get_attribute("aria-sort")) == ("Size", "descending")

    browser.refresh()
    until_first(browser, "Large.orders")
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').filter((one) => one.name.includes('/api/'))"
        ".map((one) => [one.name, one.encodedBodySize])"
    )
    assert asked
    assert max(size for _, size in asked) < ANSWER_BYTES_MAX, asked
    assert (complaints(browser), violations(browser)) == ([], [])


def test_what_a_row_tells(gateway: tuple[str, str], browser: Chrome) -> None:
    """Partitions, size, rates, retention, groups: in the units of the command line."""
    _, http = gateway
    look(browser, 390, 844, dark=True, phone=True)
    browser.get(f"http://{http}/console/topics.html?sort=-groups")
    until_first(browser, "Large.orders")
    row = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#rows tr:first-child > *")]
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")

    assert (row[1], row[2], row[6], row[7]) == ("3", "1", "1 h, 1 MiB", "1")
    assert row[3].endswith(" KiB")
    assert overflow == 0
    assert (complaints(browser), violations(browser)) == ([], [])


def test_the_list_over_http(gateway: tuple[str, str]) -> None:
    """Sorted by size, the large one is first; a search is part of a name in any case; a wrong order is refused."""
    _, http = gateway
    largest = get(http, "/api/v1/topics?sort=-bytes&limit=2")
    assert largest["topics"][0]["name"] == "Large.orders"
    assert (largest["found"], largest["total"], len(largest["topics"])) == (MANY + 1, MANY + 1, 2)
    found = get(http, "/api/v1/topics?search=ARGE.")
    assert (found["found"], found["topics"][0]["groups"], found["topics"][0]["retention_ms"]) == (1, 1, 3_600_000)
    assert len(get(http, "/api/v1/topics?limit=5000")["topics"]) == 1_000
    assert call(http, "GET", "/api/v1/topics?sort=colour")[0] == 400


def test_what_is_new_is_seen(gateway: tuple[str, str], browser: Chrome) -> None:
    """While one watches, sizes grow; a name full of markup that one searches for is text."""
    kafka, http = gateway
    create_topic(kafka, "growing", 1)
    markup = "<img src=x onerror=document.title='taken'>"
    browser.get(f"http://{http}/console/topics.html?search=growing")
    until_first(browser, "growing")
    size = "return document.querySelector('#rows tr').children[3].textContent"
    assert browser.execute_script(size) == "0 B"
    produce(kafka, "growing", 0, 100)
    WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.execute_script(size).endswith("KiB"))

    field = browser.find_element(By.ID, "search")
    field.send_keys(Keys.BACKSPACE * 7, markup)
    until(lambda: browser.find_element(By.ID, "none").is_displayed())
    assert browser.title == "Topics - Penstock"
    assert complaints(browser) == []
