"""The REST API of a running gateway."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.gateway.forking import serving
from tests.gateway.http.calls import call, create_topic, get, produce, until

pytestmark = pytest.mark.slow

BASE = "/api/v1/streams"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        yield ready["kafka"][0], ready["http"]


def active(view: dict[str, Any]) -> list[dict[str, Any]]:
    return [segment for segment in view["epochs"][-1]["segments"] if segment["state"] == "active"]


def test_a_stream_and_its_scales(gateway: tuple[str, str]) -> None:
    """A split, a merge: epochs are listed oldest first, with the load of each segment, and nothing is lost."""
    kafka, http = gateway
    create_topic(kafka, "orders", 8)
    produce(kafka, "orders", 0, 10)
    before = get(http, f"{BASE}/orders")
    status, _, split = call(http, "POST", f"{BASE}/orders/scale", {"split": {"segment": 0, "at": [4, 1]}})
    assert (status, split) == (200, {"name": "orders", "epoch": 1, "sealed": [0], "opened": [1, 2, 3]})
    produce(kafka, "orders", 1, 5)
    status, _, merged = call(http, "POST", f"{BASE}/orders/scale", {"merge": [3, 2]})
    assert (status, merged["opened"]) == (200, [4])

    view = get(http, f"{BASE}/orders")

    assert before["epochs"] == [
        {
            "epoch": 0,
            "started_ms": before["created_ms"],
            "reason": "created",
            "segments": [before["epochs"][0]["segments"][0]],
        }
    ]
    whole = before["epochs"][0]["segments"][0]
    assert whole["slots"] == [0, 4, 2, 6, 1, 5, 3, 7]
    assert (whole["key_range"], whole["state"], whole["bytes"] > 1000) == ([0.0, 1.0], "active", True)
    assert [epoch["epoch"] for epoch in view["epochs"]] == [0, 1, 2]
    cut = view["epochs"][1]["segments"]
    assert [(s["id"], s["slots"], s["key_range"], s["state"]) for s in cut] == [
        (1, [0], [0.0, 0.125], "active"),
        (2, [4, 2, 6], [0.125, 0.5], "sealed"),
        (3, [1, 5, 3, 7], [0.5, 1.0], "sealed"),
    ]
    assert view["epochs"][0]["segments"][0]["state"] == "sealed"
    assert view["epochs"][0]["segments"][0]["bytes"] == whole["bytes"]
    assert [s["bytes"] > 0 for s in cut] == [False, False, True]
    assert [s["id"] for s in active(view)] == [1, 4]
    assert view["appended_events"] == 15
    assert sum(s["bytes"] for s in (whole, *cut)) == view["appended_bytes"]
    assert [epoch["epoch"] for epoch in get(http, f"{BASE}/orders?epochs=1")["epochs"]] == [2]


def test_where_a_split_falls(gateway: tuple[str, str]) -> None:
    """Without a slot and without load, the cut halves the slots; one slot is never cut."""
    kafka, http = gateway
    create_topic(kafka, "halves", 3)

    for segment in (0, 2):
        assert call(http, "POST", f"{BASE}/halves/scale", {"split": {"segment": segment}})[0] == 200

    assert [s["slots"] for s in active(get(http, f"{BASE}/halves"))] == [[0], [1], [2]]
    status, _, problem = call(http, "POST", f"{BASE}/halves/scale", {"split": {"segment": 1}})
    assert (status, "more partitions" in problem["detail"]) == (409, True)


def test_rates(gateway: tuple[str, str]) -> None:
    """A segment's load shows in its rates, its stream's, and the list's."""
    kafka, http = gateway
    create_topic(kafka, "rated", 2)

    def rated() -> bool:
        produce(kafka, "rated", 0, 50)
        view = get(http, f"{BASE}/rated")
        (segment,) = active(view)
        (listed,) = [s for s in get(http, BASE)["streams"] if s["name"] == "rated"]
        return all(told[rate] > 0 for told in (segment, view, listed) for rate in ("rate_bytes", "rate_events"))

    assert until(rated)


def test_the_map(gateway: tuple[str, str]) -> None:
    """Each segment is a rectangle: told once, from when it was opened until it was sealed."""
    kafka, http = gateway
    create_topic(kafka, "map", 4)
    for segment in (0, 1):
        assert call(http, "POST", f"{BASE}/map/scale", {"split": {"segment": segment}})[0] == 200
    epochs = get(http, f"{BASE}/map")["epochs"]
    started = [epoch["started_ms"] for epoch in epochs]

    told = get(http, f"{BASE}/map/map")

    lives = {s["id"]: (s["opened_ms"], s["sealed_ms"], s["key_range"]) for s in told["segments"]}
    assert lives == {
        0: (started[0], started[1], [0.0, 1.0]),
        1: (started[1], started[2], [0.0, 0.5]),
        2: (started[1], None, [0.5, 1.0]),
        3: (started[2], None, [0.0, 0.25]),
        4: (started[2], None, [0.25, 0.5]),
    }
    newest = get(http, f"{BASE}/map/map?since_ms={told['time_ms'] + 1000}")["segments"]
    assert {(s["id"], s["opened_ms"]) for s in newest} == {(3, started[2]), (4, started[2]), (2, started[1])}


def test_events(gateway: tuple[str, str]) -> None:
    """A scale is listed with its cause."""
    kafka, http = gateway
    create_topic(kafka, "told", 2)
    assert call(http, "POST", f"{BASE}/told/scale", {"split": {"segment": 0}})[0] == 200

    newest = get(http, "/api/v1/events")["events"][0]

    assert (newest["stream"], newest["kind"], newest["sealed"], newest["opened"]) == ("told", "manual", [0], [1, 2])
    assert "split" in newest["reason"]


def test_a_sealed_stream(gateway: tuple[str, str]) -> None:
    """A sealed stream shows its state, cannot be scaled or sealed again, and keeps its records."""
    kafka, http = gateway
    create_topic(kafka, "ended", 2)
    produce(kafka, "ended", 0, 3)

    status, _, sealed = call(http, "POST", f"{BASE}/ended/seal")

    assert (status, sealed["state"]) == (200, "sealed")
    view = get(http, f"{BASE}/ended")
    assert (view["state"], view["sealed_ms"], active(view)) == ("sealed", sealed["sealed_ms"], [])
    assert view["segments"] == 0
    assert view["epochs"][0]["segments"][0]["bytes"] > 300
    for path, body in (("seal", None), ("scale", {"split": {"segment": 0}})):
        status, headers, problem = call(http, "POST", f"{BASE}/ended/{path}", body)
        assert (status, headers["Content-Type"]) == (409, "application/problem+json")
        assert "sealed" in problem["detail"]


def test_a_slot_moves(tmp_path: Path) -> None:
    """A partition goes to another container with its records; asking again changes nothing; the map tells where."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "containers=2") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "moved", 2)
        produce(kafka, "moved", 1, 3)
        (before,) = {one["container"] for one in active(get(http, f"{BASE}/moved")) if 1 in one["slots"]}
        move = {"slot": 1, "container": 1 - before}

        for _ in range(2):
            status, _, moved = call(http, "POST", f"{BASE}/moved/move", move)
            assert (status, moved) == (200, {"name": "moved", **move, "state": "moved"})

        shown = get(http, f"{BASE}/moved")
        assert {one["container"] for one in active(shown) if 1 in one["slots"]} == {1 - before}
        assert shown["epoch"] == 1
        rectangles = get(http, f"{BASE}/moved/map")["segments"]
        assert {one["container"] for one in rectangles} == {0, 1}
        assert {one["node"] for one in rectangles if one["sealed_ms"] is None} == {1}
        produce(kafka, "moved", 1, 2)
        page = get(http, "/api/v1/topics/moved/records?partition=1&offset=0")
        assert [record["offset"] for record in page["records"]] == [0, 1, 2, 3, 4]
        (event,) = get(http, "/api/v1/events")["events"]
        assert (event["kind"], event["reason"]) == ("move", f"slot 1 moved to container {1 - before}")
        for wanted, expected in (({"slot": 9, "container": 0}, 409), ({"slot": 0, "container": 7}, 404)):
            status, headers, problem = call(http, "POST", f"{BASE}/moved/move", wanted)
            assert (status, headers["Content-Type"]) == (expected, "application/problem+json")
            assert problem["detail"]


def test_segments_at_their_limit(tmp_path: Path) -> None:
    """Hot segments that cannot split are named, a few of them one by one, and what to do is said once."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "scaler.time.factor=0.001") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "hot", 7, penstock_scaling_target_rate="1", penstock_scaling_min_segments="7")

        def limits() -> Any:
            for partition in range(7):
                produce(kafka, "hot", partition, 5)
            told = get(http, f"{BASE}/hot")["limits"]
            return told if len(told) == 7 else None

        *named, more, advice = until(limits)
        told = until(lambda: produce(kafka, "hot", 3, 5) or get(http, "/api/v1/events")["limits"])

    assert all(re.match(r"Segment \d \(slot \d alone\) is at its limit: .*/s over 0\.\d+ s, ", one) for one in named)
    assert (more, "penstock.scaling.target.rate" in advice) == ("So are 2 more segments.", True)
    assert all(f"Segment {one['segment']} (slot " in one["message"] and advice in one["message"] for one in told)


def test_groups(gateway: tuple[str, str]) -> None:
    """A group's lag is the distance between its committed offsets and the ends."""
    kafka, http = gateway
    create_topic(kafka, "read", 2)
    produce(kafka, "read", 0, 10)
    produce(kafka, "read", 1, 4)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "readers"})
    consumer.commit(offsets=[TopicPartition("read", 0, 7), TopicPartition("read", 1, 0)], asynchronous=False)
    consumer.close()

    (group,) = until(lambda: [g for g in get(http, "/api/v1/groups")["groups"] if g["name"] == "readers"])

    assert (group["lag"], group["members"], group["state"]) == (7, 0, "Empty")
    assert group["topics"] == [{"topic": "read", "partitions": 2, "lag": 7}]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("nowhere/scale", {"merge": [1, 2]}, 404, "nowhere"),
        ("refused/scale", {}, 400, "either split or merge"),
        ("refused/scale", {"merge": [0]}, 400, "merge"),
        ("refused/scale", {"split": {"segment": 0}, "merge": [0, 1]}, 400, "either split or merge"),
        ("refused/scale", {"split": {"segment": "a"}}, 400, "split.segment"),
        ("refused/scale", {"split": {"segment": 0}, "other": 1}, 400, "other"),
        ("refused/scale", {"split": {"segment": "0"}}, 400, "split.segment"),
        ("refused/scale", {"split": {"segment": False}}, 400, "split.segment"),
        ("refused/scale", b"{", 400, "the body"),
        ("refused/scale", b" " * (1 << 20) + b" ", 413, "1048576"),
        ("refused/scale", {"split": {"segment": 7}}, 409, "active are 0"),
        ("refused/scale", {"split": {"segment": 0, "at": [9]}}, 409, "there is no slot 9"),
        ("refused/scale", {"split": {"segment": 0, "at": [0]}}, 409, "begins"),
        ("refused/scale", {"merge": [0, 0]}, 409, "twice"),
        ("refused/scale", {"merge": [7, 8]}, 409, "active are 0"),
    ],
)
def test_refusals(gateway: tuple[str, str], path: str, body: object, status: int, says: str) -> None:
    """An impossible change is answered with a problem document, and changes nothing."""
    kafka, http = gateway
    if "refused" not in {s["name"] for s in get(http, BASE)["streams"]}:
        create_topic(kafka, "refused", 4)

    answered, headers, problem = call(http, "POST", f"{BASE}/{path}", body)

    assert (answered, headers["Content-Type"]) == (status, "application/problem+json")
    assert (problem["status"], says in problem["detail"]) == (status, True), problem
    assert get(http, f"{BASE}/refused")["epoch"] == 0


def test_paths_and_methods(gateway: tuple[str, str]) -> None:
    """Unknown paths are refused with a problem document as well; elsewhere in plain words."""
    _, http = gateway
    wanted = [
        ("GET", "/api/v2/streams", 404, "/api describes"),
        ("GET", f"{BASE}/a%2Fb", 404, "a/b"),
        ("DELETE", f"{BASE}/nowhere", 405, "GET"),
        ("GET", f"{BASE}/nowhere/scale", 405, "POST"),
        ("GET", "/api/v1/tier2/chunks/nowhere", 404, "nowhere"),
    ]

    for method, path, status, says in wanted:
        answered, headers, problem = call(http, method, path)
        assert (answered, headers["Content-Type"]) == (status, "application/problem+json")
        assert (problem["status"], says in problem["detail"]) == (status, True), problem
    assert call(http, "GET", "/nowhere")[2] == "Not Found\n"


def test_merges_leave_the_minimum(gateway: tuple[str, str]) -> None:
    """A merge that the scaler would undo at once is refused; a policy of fewer segments allows it."""
    kafka, http = gateway
    create_topic(kafka, "kept", 8, penstock_scaling_min_segments="3")

    status, _, problem = call(http, "POST", f"{BASE}/kept/scale", {"merge": [0, 1]})

    assert (status, "at least 3" in problem["detail"]) == (409, True)
    assert call(http, "POST", f"{BASE}/kept/scale", {"split": {"segment": 0}})[0] == 200
    assert call(http, "POST", f"{BASE}/kept/scale", {"merge": [3, 4]})[0] == 200


def test_many_segments_at_once(gateway: tuple[str, str]) -> None:
    """The reason of a scale, which is kept for good, does not grow with it."""
    kafka, http = gateway
    create_topic(kafka, "many", 100)
    split = {"split": {"segment": 0, "at": list(range(1, 100))}}
    assert call(http, "POST", f"{BASE}/many/scale", split)[0] == 200

    assert call(http, "POST", f"{BASE}/many/scale", {"merge": list(range(1, 101))})[0] == 200

    reason = get(http, f"{BASE}/many?epochs=1")["epochs"][0]["reason"]
    assert reason.endswith("19, 20 and 80 more merged by hand")


def test_other_pages_change_nothing(gateway: tuple[str, str]) -> None:
    """Host, origin and content type are looked at before anything else."""
    kafka, http = gateway
    create_topic(kafka, "guarded", 4)
    body = {"split": {"segment": 0}}

    statuses = [
        call(http, "POST", f"{BASE}/guarded/scale", body, Host="evil.example")[0],
        call(http, "POST", f"{BASE}/guarded/scale", body, Origin="http://evil.example")[0],
        call(http, "POST", f"{BASE}/guarded/seal", None, Sec_Fetch_Site="cross-site")[0],
        call(http, "POST", f"{BASE}/guarded/scale", body, Content_Type="text/plain")[0],
        call(http, "GET", f"{BASE}/guarded/scale")[0],
    ]

    assert statuses == [403, 403, 403, 415, 405]
    view = get(http, f"{BASE}/guarded")
    assert (view["epoch"], view["state"]) == (0, "open")


def test_bad_queries(gateway: tuple[str, str]) -> None:
    """Numbers are numbers."""
    _, http = gateway

    assert [call(http, "GET", f"{BASE}?limit={bad}")[0] for bad in ("x", "-1", "1.5", "%C2%B2")] == [400] * 4
    assert get(http, f"{BASE}?limit=0")["streams"] == []


def test_the_list_in_pieces(gateway: tuple[str, str]) -> None:
    """However many there are, by name, each once."""
    kafka, http = gateway
    for name in ("piece-a", "piece-b", "piece-c"):
        create_topic(kafka, name, 1)
    whole = [stream["name"] for stream in get(http, BASE)["streams"]]
    pieces: list[str] = []

    while some := get(http, f"{BASE}?limit=2&after={pieces[-1] if pieces else ''}")["streams"]:
        pieces += [stream["name"] for stream in some]

    assert pieces == whole == sorted(whole)
    assert get(http, f"{BASE}?after=piece-aa&limit=1")["streams"][0]["name"] == "piece-b"


def test_totals(gateway: tuple[str, str]) -> None:
    """Counters of the whole, which a reader takes differences of."""
    kafka, http = gateway
    create_topic(kafka, "counted", 1)
    before = get(http, "/api/v1/overview")
    produce(kafka, "counted", 0, 5)

    after = get(http, "/api/v1/overview")

    assert after["produced_records"] - before["produced_records"] == 5
    assert after["produced_bytes"] > before["produced_bytes"]
    assert after["log_bytes"] > 0


def test_the_description(gateway: tuple[str, str]) -> None:
    """All described operations are there; the page needs nothing from elsewhere."""
    _, http = gateway
    whole = get(http, "/api/v1/openapi.json")

    status, headers, page = call(http, "GET", "/api")

    assert whole["openapi"].startswith("3.1")
    assert set(whole["paths"][f"{BASE}/{{name}}/scale"]) == {"post"}
    assert "ScaleRequest" in whole["components"]["schemas"]
    for path, operations in whole["paths"].items():
        status = call(http, next(iter(operations)).upper(), path.replace("{name}", "nowhere"))[0]
        assert status in (200, 404, 415), path
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "http" not in page.replace("http.token", "").replace("HTTP", "")


def test_the_examples(gateway: tuple[str, str]) -> None:
    """Every operation has a command line on the page, and each that looks at something works as it stands there."""
    kafka, http = gateway
    create_topic(kafka, "NAME", 2)
    whole, page = get(http, "/api/v1/openapi.json"), call(http, "GET", "/api")[2]
    lines = [shlex.split(unescape(line)) for line in re.findall(r'<pre class="curl"[^>]*>(.*?)</pre>', page, re.DOTALL)]

    assert len(lines) == sum(len(operations) for operations in whole["paths"].values())
    for line in lines:
        method = line[line.index("-X") + 1] if "-X" in line else "GET"
        path = next(word for word in line if word.startswith("localhost:9094/")).removeprefix("localhost:9094")
        body = json.loads(line[line.index("-d") + 1]) if "-d" in line else None
        status, _, told = call(http, method, path, body)
        assert status in (
            (200,) if method == "GET" and "/groups/" not in path and "/chunks/" not in path else (200, 404, 409)
        ), told


def test_a_token(tmp_path: Path) -> None:
    """With a token configured, who writes shows it; reading is free."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "http.token=open sesame") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "kept", 2)

        refused, headers, _ = call(http, "POST", f"{BASE}/kept/seal")
        allowed, _, _ = call(http, "POST", f"{BASE}/kept/seal", Authorization="Bearer open sesame")

        assert (refused, headers["WWW-Authenticate"], allowed) == (401, "Bearer", 200)
        assert get(http, f"{BASE}/kept")["state"] == "sealed"
        assert "open sesame" not in running.err.read_text()


def test_nobody_writes_from_elsewhere_without_a_token(tmp_path: Path) -> None:
    """A listener that other machines reach takes no changes unless a token is configured."""
    with serving(tmp_path, "--http", "0.0.0.0:0") as running:
        ready = running.ready()
        http = ready["http"].replace("0.0.0.0", "127.0.0.1")
        create_topic(ready["kafka"][0], "kept", 2)

        status, _, problem = call(http, "POST", f"{BASE}/kept/seal")

        assert (status, "http.token" in problem["detail"]) == (403, True)
