"""A gateway, a topic with ten records, and a member of a share group that has joined; turns that are over at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.network import turns
from tests.gateway.forking import serving
from tests.gateway.groups.share.speaking import Member, configured, topic, write
from tests.likeness.asking import Server


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path, "--set", "log.file.bytes=4194304") as gateway:
        yield gateway.ready()["kafka"][0]


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    asked = Server(address, own={})
    yield asked
    asked.close()


@pytest.fixture
def member(server: Server, address: str) -> Member:
    """A member that has joined; the topic has ten records, in one batch."""
    made = Member(server, topic(address, "t"))
    write(address, "t", *map(str, range(10)), **{"linger.ms": "200"})
    configured(server, share_auto_offset_reset="earliest")
    assert made.join()["error_code"] == 0
    return made


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An element for each time that a handler gave way; each turn is over at once."""
    found: list[None] = []
    give_way = turns.Stint.give_way

    async def counted(stint: turns.Stint) -> None:
        found.append(None)
        await give_way(stint)

    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    monkeypatch.setattr(turns.Stint, "give_way", counted)
    return found
