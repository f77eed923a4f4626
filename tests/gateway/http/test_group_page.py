"""The console's page of one group in a real browser, and what stands behind it: lag, its history, moving offsets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from gateway.groups.classic.subscription import assigned_partitions
from gateway.http.rings import Rings
from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import ACCEPT, Member, acquired, configured, topic, write
from tests.gateway.groups.streams.test_apis import heartbeat, subtopology
from tests.gateway.http.browser import complaints, look, violations
from tests.gateway.http.calls import call, create_topic, get, produce, until
from tests.gateway.http.test_topic_pages import MARKUP, row, until_text
from tests.likeness.asking import Server

WITHIN_S = 60.0
STATELESS = {"epoch": 0, "subtopologies": [subtopology("0", source_topics=["orders"])]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway with a topic of two partitions: ten records in one, five in the other."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        kafka, http = running.ready()["kafka"][0], running.ready()["http"]
        create_topic(kafka, "orders", 2)
        produce(kafka, "orders", 0, 10)
        produce(kafka, "orders", 1, 5)
        yield kafka, http


@pytest.fixture(scope="module")
def shared(gateway: tuple[str, str]) -> Iterator[Member]:
    """A member of the share group "g", which has taken five of ten records and settled the middle three of them."""
    kafka, _ = gateway
    server = Server(kafka, own={})
    member = Member(server, topic(kafka, "t"))
    write(kafka, "t", *map(str, range(10)))
    configured(server, share_auto_offset_reset="earliest")
    member.join()
    assert acquired(member.fetch(0, most=5)) == [(0, 4, 1)]
    member.settle(1, (1, 3, ACCEPT))
    yield member
    server.close()


def commit(kafka: str, group: str, *offsets: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    places = [TopicPartition("orders", partition, offset) for partition, offset in enumerate(offsets)]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_stuck_consumer_is_moved(gateway: tuple[str, str], browser: Chrome) -> None:
    """Its lag by partition; a move is looked at first and made then, and a changed form must be looked at again."""
    kafka, http = gateway
    commit(kafka, MARKUP, 4, 5)
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
@pytest.mark.timeout(480)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members(gateway: tuple[str, str], protocol: str, browser: Chrome) -> None:
    """Members with their partitions; as long as there are some, offsets are not moved."""
    kafka, http = gateway
    config = {"group.protocol": protocol, "client.id": "till 7", "auto.offset.reset": "earliest"}
    reader = Consumer({"bootstrap.servers": kafka, "group.id": protocol, **config})
    reader.subscribe(["orders"])
    until(lambda: reader.poll(0.1))
    reader.commit(asynchronous=False)
    look(browser, 390, 844, dark=True, phone=True)
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
@pytest.mark.timeout(480)
def test_history_survives_a_reload(gateway: tuple[str, str], browser: Chrome) -> None:
    """The gateway measures, whoever looks: a page that is opened later shows the time before."""
    kafka, http = gateway
    commit(kafka, "slow", 1)
    until(lambda: len(get(http, "/api/v1/groups/slow/history")["lags"]) >= 2)
    of_one = get(http, "/api/v1/groups/slow/history?topic=orders&partition=0")
    assert set(of_one["lags"]) == {9}
    browser.get(f"http://{http}/console/group.html?group=slow")
    until_text(browser, "trend-note", "between 9 and 9")
    assert browser.execute_script("return document.querySelector('#trend path:not(.area)').getAttribute('d')")
    lines = "return [...document.querySelectorAll('#groups .trend path')].filter((one) => one.getAttribute('d')).length"
    asked = "return performance.getEntriesByType('resource').some((one) => one.name.endsWith('/groups/slow/history'))"
    for visit in (lambda: browser.get(f"http://{http}/"), browser.refresh):
        visit()
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda b: b.execute_script(lines) > 0)
        assert browser.execute_script(asked), "the line is not of this page alone"


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_share_group(gateway: tuple[str, str], shared: Member, browser: Chrome) -> None:
    """Where its start offset is, and how many records are not settled: more than lie before it; who shares them."""
    _, http = gateway
    other = shared.beside("other")
    browser.get(f"http://{http}/console/group.html?group=g")
    until_text(browser, "lag", "7")
    assert row(browser, "partitions")[:5] == ["t", "0", "7", "0", "10"]
    assert "share group, Stable" in browser.find_element(By.ID, "facts").text
    heads = [head.text for head in browser.find_elements(By.CSS_SELECTOR, "[aria-label=Partitions] th")]
    assert "Start offset" in heads
    assert browser.find_element(By.ID, "lag-name").text == "records not settled"
    until_text(browser, "facts", "2 members")
    assert [row(browser, "members", n)[3] for n in (0, 1)] == ["m", "other"]

    browser.find_element(By.CSS_SELECTOR, "#move button").click()
    until_text(browser, "done", "This would move 1 offset. Nothing is changed yet.")
    assert (complaints(browser), violations(browser)) == ([], [])
    assert other.leave()["error_code"] == 0


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_all_groups(gateway: tuple[str, str], shared: Member, browser: Chrome) -> None:
    """Groups of every kind: searched, sorted, a page at a time; each leads to its own page."""
    kafka, http = gateway
    commit(kafka, "all classic", 1)
    names = [f"many {n:02}" for n in range(60)]
    place = [TopicPartition("orders", 1, 4)]
    admin = AdminClient({"bootstrap.servers": kafka})
    for name in names:
        admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(name, place)])[name].result(WITHIN_S)
    reader = Consumer({"bootstrap.servers": kafka, "group.id": "all consumer", "group.protocol": "consumer"})
    reader.subscribe(["orders"])
    until(lambda: reader.poll(0.1) or reader.assignment())
    server = Server(kafka, own={})
    joined = heartbeat(0, group_id="all streams", topology=STATELESS)
    assert server.said("StreamsGroupHeartbeat", 0, joined)["error_code"] == 0

    def shown() -> list[list[str]]:
        told: list[list[str]] = browser.execute_script(
            "return [...document.getElementById('rows').children]"
            ".map((row) => [...row.children].map((one) => one.textContent))"
        )
        return told

    def until_first(name: str) -> None:
        WebDriverWait(browser, WITHIN_S, 0.05).until(lambda _: [one[0] for one in shown()][:1] == [name], name)

    browser.get(f"http://{http}/console/groups.html?search=all ")
    until_first("all classic")
    (node,) = {one[6] for one in shown()}
    assert sorted([*one[:2], *one[3:6]] for one in shown()) == [
        ["all classic", "classic", "0", "9", "orders"],
        ["all consumer", "consumer", "1", "0", ""],
        ["all streams", "streams", "1", "0", ""],
    ]
    assert (shown()[0][2], node) == ("Empty", f"node {get(http, '/api/v1/groups/g')['coordinator']}")

    search = browser.find_element(By.ID, "search")
    search.clear()
    search.send_keys("MANY")
    until_first("many 00")
    assert len(shown()) == 50
    assert browser.find_element(By.ID, "count").text.startswith("1 to 50 of 60 (")
    browser.find_element(By.CSS_SELECTOR, "th[data-order=name] button").click()
    browser.find_element(By.CSS_SELECTOR, "th[data-order=name] button").click()
    until_first("many 59")
    browser.find_element(By.ID, "next").click()
    until_first("many 09")
    assert (complaints(browser), violations(browser)) == ([], [])

    look(browser, 390, 844, dark=True, phone=True)
    browser.get(f"http://{http}/console/groups.html?search=all&sort=-type")
    until_first("all streams")
    assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") == 0
    assert violations(browser) == []
    reader.close()
    server.close()


@pytest.mark.slow
def test_the_list_over_http(gateway: tuple[str, str], shared: Member) -> None:
    """Those that lag most first, unless asked otherwise; a topic's groups; what is wrong is refused."""
    _, http = gateway
    lags = [group["lag"] for group in get(http, "/api/v1/groups")["groups"]]
    assert lags == sorted(lags, reverse=True)
    told = get(http, "/api/v1/groups?topic=t")
    assert (told["found"], [group["name"] for group in told["groups"]]) == (1, ["g"])
    assert told["total"] > told["found"]
    assert told["groups"][0]["topics"] == [{"topic": "t", "partitions": 1, "lag": 7}]
    assert get(http, "/api/v1/groups?offset=5000")["groups"] == []
    for wrong in ("sort=size", "limit=some", "offset=-1"):
        assert call(http, "GET", f"/api/v1/groups?{wrong}")[0] == 400


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
    rings.add({"b": 5})
    rings.add({"b": 6, "d": 7})
    assert (rings.of("a"), rings.of("b"), rings.of("d")) == ([], [5, 6], [7]), "the one silent for longest makes room"


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
