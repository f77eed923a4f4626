"""`penstock streams` against a running gateway."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console

from gateway.cli.streams_picture import picture, show_list, show_stream
from tests.gateway.forking import run, serving
from tests.gateway.http.calls import create_topic, get, produce
from tests.gateway.launching import END_WITHIN_S, PENSTOCK


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        yield ready["kafka"][0], ready["http"]


def without_rates(told: Any) -> Any:
    """The part that does not change from one second to the next."""
    if isinstance(told, dict):
        return {name: without_rates(value) for name, value in told.items() if not name.startswith("rate_")}
    return [without_rates(value) for value in told] if isinstance(told, list) else told


@pytest.mark.slow
def test_by_hand(gateway: tuple[str, str]) -> None:
    """List, split, merge, show, seal: the printed JSON is the API's answer."""
    kafka, http = gateway
    url = ("--url", f"http://{http}")
    create_topic(kafka, "orders", 4)
    produce(kafka, "orders", 0, 3)

    outcomes = [
        run("streams", "scale", "orders", "--split", "0@1,3", *url),
        run("streams", "scale", "orders", "--merge", "3,2", *url),
        run("streams", "scale", "orders", "--split", "4", "--json", *url),
        run("streams", "ls", *url),
        run("streams", "show", "orders", *url),
        run("streams", "move", "orders", "1", "--to", "0", *url),
        run("streams", "seal", "orders", "--yes", *url),
    ]

    assert [(outcome.returncode, outcome.stderr) for outcome in outcomes] == [(0, "")] * len(outcomes)
    assert outcomes[0].stdout == "orders: epoch 1 began; sealed: 0; opened: 1, 2, 3\n"
    assert json.loads(outcomes[2].stdout) == {"name": "orders", "epoch": 3, "sealed": [4], "opened": [5, 6]}
    assert "orders" in outcomes[3].stdout
    assert "epoch    3" in outcomes[4].stdout
    assert outcomes[5].stdout == "orders: slot 1 lies in container 0\n"
    shown = json.loads(run("streams", "show", "orders", "--json", *url).stdout)
    assert without_rates(shown) == without_rates(get(http, "/api/v1/streams/orders"))
    assert (shown["state"], len(shown["epochs"])) == ("sealed", 4)
    assert json.loads(run("streams", "ls", "--json", *url).stdout)["streams"][0]["name"] == "orders"


@pytest.mark.slow
def test_refusals(gateway: tuple[str, str]) -> None:
    """One line names the fault; a fault of the command line has the exit code of configuration."""
    _, http = gateway
    url = ("--url", f"http://{http}")
    wrong = {
        ("show", "nowhere", *url): (1, "no stream 'nowhere'"),
        ("scale", "nowhere", *url): (2, "--split ID[@SLOT,...] or --merge"),
        ("scale", "nowhere", "--split", "1@", *url): (2, "--split 1@"),
        ("scale", "nowhere", "--merge", "1", *url): (2, "--merge 1"),
        ("scale", "nowhere", "--merge", "1,2", *url): (1, "no stream 'nowhere'"),
        ("ls", "--url", "http://127.0.0.1:1"): (1, "--url"),
        ("ls", "--url", "ftp://here"): (2, "http(s)://HOST"),
    }

    for arguments, (code, says) in wrong.items():
        outcome = run("streams", *arguments)
        assert (outcome.returncode, outcome.stderr.count("\n"), says in outcome.stderr) == (code, 1, True), outcome


@pytest.mark.slow
def test_many_streams(tmp_path: Path) -> None:
    """All of them are listed, though an answer has a thousand at most."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        names = [f"t{n:04}" for n in range(1_001)]
        admin = AdminClient({"bootstrap.servers": ready["kafka"][0]})
        made = admin.create_topics([NewTopic(name, 1, 1) for name in names])
        assert [future.result(30) for future in made.values()] == [None] * len(names)

        listed = run("streams", "ls", "--url", ready["http"])
        told = json.loads(run("streams", "ls", "--json", "--url", ready["http"]).stdout)

    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == names
    assert ([stream["name"] for stream in told["streams"]], told["total"]) == (names, len(names))


@pytest.mark.slow
def test_a_token(tmp_path: Path) -> None:
    """A command that needs a token says how to give it."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "http.token=sesame") as running:
        ready = running.ready()
        create_topic(ready["kafka"][0], "kept", 2)
        seal = ("streams", "seal", "kept", "--yes", "--url", ready["http"])

        refused = run(*seal)
        broken = [run(*seal, "--token", "sesame\nX: 1"), run(*seal, environ={"PENSTOCK_HTTP_TOKEN": "sésame"})]
        allowed = run(*seal, environ={"PENSTOCK_HTTP_TOKEN": "sesame\n"})  # as a file with a last line has it

    assert (refused.returncode, "--token" in refused.stderr) == (1, True)
    assert (allowed.returncode, allowed.stderr) == (0, "")
    for outcome in broken:
        assert (outcome.returncode, "no header" in outcome.stderr) == (2, True)
        assert "same" not in outcome.stderr + outcome.stdout


@pytest.mark.slow
def test_sealing_asks(gateway: tuple[str, str]) -> None:
    """An irreversible change needs a confirmation at a terminal, and is refused without one; --yes confirms it."""
    kafka, http = gateway
    create_topic(kafka, "asked", 2)
    seal = ("streams", "seal", "asked", "--url", f"http://{http}")

    silent = run(*seal)
    answers = [at_a_terminal(answer, *seal) for answer in ("\n", "no\n", "\x04", "y\n")]

    assert (silent.returncode, "--yes" in silent.stderr) == (2, True)
    assert [code for code, _ in answers] == [1, 1, 1, 0]
    assert all("nobody can undo that" in shown for _, shown in answers)
    assert "asked is sealed" in answers[-1][1]


def at_a_terminal(typed: str, *arguments: str) -> tuple[int, str]:
    """Run the command with a terminal for a keyboard: exit code, and all that it said."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [PENSTOCK, *arguments], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            os.write(ours, typed.encode())
            shown, _ = process.communicate(timeout=END_WITHIN_S)
        return process.returncode, shown
    finally:
        os.close(ours)
        os.close(theirs)


LISTED = {
    "state": "sealed",
    "slots": 10_000,
    "segments": 1_000,
    "epoch": 9_999,
    "rate_bytes": 1000 * 1024.0,
    "rate_events": 99_999.0,
    "tiers": {"log": 1000 * 2**20, "chunks": 1000 * 2**30},
}


def told(show: Callable[[Any, Console], None], what: Any, *, width: int, terminal: bool) -> list[str]:
    """The lines that somebody sees."""
    out = io.StringIO()
    show(what, Console(file=out, width=width, force_terminal=terminal, color_system=None, highlight=False))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_list() -> None:
    """A narrow terminal has whole numbers; a pipe has whole names, a line for each stream."""
    streams = {"streams": [LISTED | {"name": "n" * 40}, LISTED | {"name": "short"}], "total": 2}
    numbers = "sealed 10000     1000  9999 1000.0 KiB    99,999 1000.0 MiB 1000.0 GiB"

    assert told(show_list, streams, width=80, terminal=True)[-1] == f"{'short':9} {numbers}"
    assert told(show_list, streams, width=80, terminal=False)[1:] == [
        f"{'n' * 40} {numbers}",
        f"{'short':40} {numbers}",
    ]
    assert "no stream yet" in told(show_list, {"streams": [], "total": 0}, width=80, terminal=True)[0]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("bytes", "scaling at 2.0 KiB/s"),
        ("events", "scaling at 2,048 records/s"),
        ("fixed", "does not scale by itself"),
    ],
)
def test_what_makes_it_scale(policy: str, says: str) -> None:
    """In the unit of its policy; a reason is a line of its own in a pipe, however long."""
    segment = {"id": 0, "key_range": [0, 1], "state": "active", "rate_bytes": 0.0}
    epoch = {"epoch": 0, "started_ms": 0, "reason": "why " * 50, "segments": [segment]}
    scaling = {"policy": policy, "target_rate": 2048.0}
    stream = LISTED | {"name": "s", "slots": 1, "segments": 1, "scaling": scaling, "epochs": [epoch], "limits": []}

    lines = told(show_stream, stream, width=80, terminal=False)

    assert lines[0] == "s  sealed, 1 slot, 1 active segment, epoch 9999"
    assert says in lines[1]
    assert lines[-1].endswith(" why why")
    assert lines[-1].startswith("epoch    0  1970-01-0")


def test_the_picture() -> None:
    """Each segment's edges are drawn where its key range and its time begin, with its number in the middle."""

    def segment(number: int, low: float, high: float, state: str = "sealed") -> dict[str, object]:
        return {"id": number, "key_range": [low, high], "state": state, "rate_bytes": 0.0}

    epochs = [
        {"epoch": 0, "started_ms": 0, "segments": [segment(0, 0, 1)]},
        {"epoch": 1, "started_ms": 0, "segments": [segment(1, 0, 0.5, "active"), segment(2, 0.5, 1, "active")]},
    ]

    lines = [line.plain for line in picture(epochs, 80, 24)]

    assert [line[6:].rstrip() for line in lines[:-1]] == [
        "▏▔▔▔▔▔▔▔▔▔▏▔▔▔▔▔▔▔▔▔",
        "▏         ▏",
        "▏         ▏2",
        "▏         ▏",
        "▏0        ▏▔▔▔▔▔▔▔▔▔",
        "▏         ▏",
        "▏         ▏1",
        "▏         ▏",
    ]
