"""A client with few rights is answered as Kafka answers it, in every version."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from gateway.broker import Broker
from tests.gateway.harness import running_broker
from tests.gateway.security.harness import ADMIN, WITH_RIGHTS, come_as
from tests.likeness.asking import Server, versions_of
from tests.likeness.questions import Question
from tests.likeness.rights import ANSWERS, SCENES, answers

RECORDED: Final = json.loads(ANSWERS.read_text())
START_SECONDS_MAX: Final = 90


class Serving(threading.Thread):
    """A broker with an authorizer on a loop of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._is_up = threading.Event()
        self.broker: Broker
        self.loop: asyncio.AbstractEventLoop

    def run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        settings = (*WITH_RIGHTS, "auto.create.topics.enable=false", f"data.dir={self._directory}")
        async with running_broker(self._directory, *settings) as self.broker:
            self._is_up.set()
            await self._end.wait()

    def __enter__(self) -> Serving:
        self.start()
        assert self._is_up.wait(START_SECONDS_MAX)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self.join(START_SECONDS_MAX)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.broker._kafka[0].port}"

    def promote(self, port: int) -> None:
        """Make the client at a port an administrator."""
        done = threading.Event()

        def come() -> None:
            come_as(self.broker, port, ADMIN)
            done.set()

        self.loop.call_soon_threadsafe(come)
        assert done.wait(START_SECONDS_MAX)


class Administrator(Server):
    """A client whose connection gets a principal of its own."""

    serving: Serving

    def _connected(self) -> socket.socket:
        connection = super()._connected()
        self.said("ApiVersions", 0, {})
        self.serving.promote(connection.getsockname()[1])
        return connection


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str, int], Any]]:
    """Penstock's answers, by scene, question and version."""
    with Serving(tmp_path_factory.mktemp("gateway")) as serving:
        administrator, stranger = Administrator(serving.address, own={}), Server(serving.address, own={})
        administrator.serving = serving
        yield {
            (scene, _name(question), version): answer
            for scene, question, version, answer in answers(administrator.said, stranger)
        }
        administrator.close()
        stranger.close()


def _name(question: Question) -> str:
    return f"{question.api}: {question.name}"


def kafkas_answer(scene: str, question: Question, version: int) -> Any:
    for alike in RECORDED[scene][_name(question)]:
        first, last = alike["versions"]
        if first <= version <= last:
            return alike["answer"]
    raise AssertionError(f"{scene}: {question.name} v{version} was not recorded: see tests/likeness/__init__.py")


@pytest.mark.parametrize("scene", SCENES)
def test_as_kafka(ours: dict[tuple[str, str, int], Any], scene: str) -> None:
    """Each question of a scene is answered as Kafka answered it."""
    different = []
    for question in SCENES[scene][1]:
        for version in versions_of(question):
            if (scene, _name(question), version) not in ours:
                continue
            answer, expected = ours[scene, _name(question), version], kafkas_answer(scene, question, version)
            if answer != expected:
                different.append(f"{question.api} v{version}, {question.name}:\n  {answer}\n  Kafka: {expected}")
    assert not different, "\n".join(different)


def test_all_recorded() -> None:
    """Every question has been asked of Kafka in each of its versions, and nothing else was recorded."""
    assert list(RECORDED) == list(SCENES)
    for scene, (_, questions) in SCENES.items():
        assert list(RECORDED[scene]) == list(map(_name, questions))
        for question in questions:
            for version in versions_of(question):
                kafkas_answer(scene, question, version)
