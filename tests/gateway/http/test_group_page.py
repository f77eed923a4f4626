"""The console's page of one group in a real browser, and what stands behind it: lag, its history, moving offsets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from gateway.groups.classic.subscription import assigned_partitions
from gateway.http.history import Rings
from tests.gateway.http.browser import chromium, complaints, violations
from tests.gateway.http.calls import call, create_topic, get, produce, until
from tests.gateway.http.test_topic_pages import MARKUP, row, until_text
from tests.gateway.launching import serving

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway with a topic of two partitions: ten records in one, five in the other."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "orders", 2)
        produce(kafka, "orders", 0, 10)
        produce(kafka, "orders", 1, 5)
        yield kafka, http


def commit(kafka: str, group: str, *offsets: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    places = [TopicPartition("orders", partition, offset) for partition, offset in enumerate(offsets)]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stuck_consumer_is_moved(gateway: tuple[str, str]) -> None:
    """Its lag by partition; a move is looked at first and made then, and a changed form must be looked at again."""
    kafka, http = gateway
    commit(kafka, MARKUP, 4, 5)
    with chromium() as browser:
        browser.get(f"http://{http}/")
        WebDriverWait(browser, WITHIN_S).until(lambda b: b.find_elements(By.LINK_TEXT, MARKUP))[0].click()
        until_text(browser, "lag", "6")
        assert row(browser, "partitions") == ["orders", "0", "6", "4", "10", "\N{EN DASH}"]
        assert "classic group, Empty" in browser.find_element(By.ID, "facts").text

        apply = browser.find_element(By.ID, "apply")
        Select(browser.find_element(By.ID, "to")).select_by_value("earliest")
        browser.find_element(By.CSS_SELECTOR, "#move button").click()
        until_text(browser, "done", "This would move 2 offsets. Nothing is changed yet.")
        assert row(browser, "moves", 1) == ["orders", "1", "5", "0", "5"]
        Select(browser.find_element(By.ID, "to")).select_by_value("latest")
        assert not apply.is_enabled()
        assert get(http, "/api/v1/groups?topic=orders")["groups"][0]["lag"] == 6

        browser.find_element(By.CSS_SELECTOR, "#move button").click()
        until_text(browser, "done", "This would move 2 offsets")
        apply.click()
        until_text(browser, "done", "Moved 2 offsets.")
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.find_element(By.ID, "lag").text == "0")
        assert browser.title == f"Group {MARKUP} - Penstock"
        assert (complaints(browser), violations(browser)) == ([], [])


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members(gateway: tuple[str, str], protocol: str) -> None:
    """Members with their partitions; as long as there are some, offsets are not moved."""
    kafka, http = gateway
    config = {"group.protocol": protocol, "client.id": "till 7", "auto.offset.reset": "earliest"}
    reader = Consumer({"bootstrap.servers": kafka, "group.id": protocol, **config})
    reader.subscribe(["orders"])
    until(lambda: reader.poll(0.1))
    reader.commit(asynchronous=False)
    with chromium(390, 844, dark=True, phone=True) as browser:
        browser.get(f"http://{http}/console/group.html?group={protocol}")
        until_text(browser, "members", "till 7")
        assert row(browser, "members")[2] == "2"
        assert row(browser, "partitions")[5] == "till 7"
        assert browser.find_element(By.ID, "facts").text.startswith(f"{protocol} group, Stable")
        assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") == 0
        assert (complaints(browser), violations(browser)) == ([], [])
    path, body = f"/api/v1/groups/{protocol}/offsets", {"to": "earliest", "dry_run": False}
    status, _, refused = call(http, "POST", path, body)
    assert (status, refused["title"]) == (409, "The group has members")
    assert call(http, "POST", path, body | {"dry_run": True})[0] == 200
    reader.close()


@pytest.mark.slow
def test_where_offsets_are_moved(gateway: tuple[str, str]) -> None:
    """To a time, an offset, by a number of records, and never beyond the ends; a topic that was never read, too."""
    kafka, http = gateway
    commit(kafka, "moved", 4)
    path = "/api/v1/groups/moved/offsets"

    def after(**body: object) -> list[int]:
        status, _, told = call(http, "POST", path, body)
        assert status == 200, told
        return [one["after"] for one in told["offsets"]]

    assert after(to="shift", value=-3) == [1]
    assert after(to="shift", value=100) == [10]
    assert after(to="offset", value=7) == [7]
    assert after(to="time", value=0) == [0]
    assert after(to="time", value=int(time.time() * 1000) + 60_000) == [10]
    assert after(to="latest", topic="orders", partitions=[1]) == [5]
    assert get(http, "/api/v1/groups/moved")["partitions"][0]["offset"] == 4  # all of these were dry
    assert after(to="offset", value=7, dry_run=False) == [7]
    assert get(http, "/api/v1/groups/moved")["partitions"][0]["offset"] == 7
    for body in ({"to": "offset"}, {"to": "latest", "value": 1}, {"to": "latest", "partitions": [0]}):
        assert call(http, "POST", path, body)[0] == 400
    assert call(http, "POST", path, {"to": "latest", "topic": "orders", "partitions": [9]})[0] == 404
    assert call(http, "POST", "/api/v1/groups/absent/offsets", {"to": "latest"})[0] == 404


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_history_survives_a_reload(gateway: tuple[str, str]) -> None:
    """The gateway measures, whoever looks: a page that is opened later shows the time before."""
    kafka, http = gateway
    commit(kafka, "slow", 1)
    until(lambda: len(get(http, "/api/v1/groups/slow/history")["lags"]) >= 2)
    of_one = get(http, "/api/v1/groups/slow/history?topic=orders&partition=0")
    assert set(of_one["lags"]) == {9}
    with chromium() as browser:
        browser.get(f"http://{http}/console/group.html?group=slow")
        until_text(browser, "trend-note", "between 9 and 9")
        assert browser.execute_script("return document.querySelector('#trend path:not(.area)').getAttribute('d')")


def test_a_ring_is_bounded() -> None:
    """It keeps the newest samples, knows gaps, and forgets who has none any more."""
    rings: Rings[str] = Rings(keys_max=2, samples=3)
    for n in range(1, 5):
        rings.add({"a": n, "b": n, "c": n} if n != 3 else {"a": n})
    assert rings.of("a") == [2, 3, 4]
    assert rings.of("b") == [2, None, 4]
    assert rings.of("c") == []
    for n in range(3):
        rings.add({"a": n})
    assert (rings.of("b"), len(rings)) == ([], 1)


def test_an_assignment_is_read() -> None:
    """Kafka's bytes; what is none gives None, however long it says that it is."""
    data = b"\x00\x01\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x02\x00\x00\x00\x05\x00\x00\x00\x07\xff\xff\xff\xff"
    assert assigned_partitions(data) == {"t": [5, 7]}
    assert assigned_partitions(b"") is None
    assert assigned_partitions(data[:9] + b"\x7f\xff\xff\xff") is None


@pytest.mark.slow
def test_the_throughput_is_remembered(gateway: tuple[str, str]) -> None:
    """What came before a page was opened is in its lines."""
    kafka, http = gateway
    create_topic(kafka, "bygone", 1)
    produce(kafka, "bygone", 0, 25)
    told = until(lambda: 25 in (told := get(http, "/api/v1/history"))["records_in"] and told)
    assert len(told["bytes_in"]) == len(told["bytes_out"]) == len(told["records_in"])
    assert told["bytes_in"][told["records_in"].index(25)] > 1_000
