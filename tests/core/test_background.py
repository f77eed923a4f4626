"""Background work outlives what goes wrong in it, ends when the log is poisoned, and says little about it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest

from core import background
from core.background import REASON_CHARS_MAX, Background
from core.errors import StorageFailure, StorageFull, TierUnavailable
from tests.core.support import run, until
from tier2.storage import NoRoom, Unavailable

PAUSE_S = 0.02
LONG_S = 3600.0


class Work:
    """Steps with outcomes that are given: an error, or the pause until the next step. The last outcome stays."""

    def __init__(self, *outcomes: Exception | float) -> None:
        self.outcomes = list(outcomes)
        self.began: list[float] = []

    @property
    def steps(self) -> int:
        return len(self.began)

    async def step(self) -> float:
        self.began.append(time.monotonic())
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture(autouse=True)
def only_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio tells at DEBUG which selector it uses."""
    caplog.set_level(logging.WARNING)


def taking(work: Work, until_it: Callable[[Work, Background], bool], **options: float) -> Background:
    """The background of some work, stopped when that holds."""
    made: list[Background] = []

    async def scenario() -> None:
        work_of = Background("some work", 3, work.step, **{"retry_s": PAUSE_S} | options)  # type: ignore[arg-type]
        made.append(work_of)
        work_of.start()
        await until(lambda: until_it(work, work_of))
        await work_of.stop()

    run(scenario())
    return made[0]


def test_steps_follow_one_another_after_the_pause_that_each_asks_for() -> None:
    """The first begins at once; the pause counts from the end of a step."""
    work = Work(0, PAUSE_S, LONG_S)
    taking(work, lambda work, _: work.steps == 3)
    assert work.began[2] - work.began[1] >= PAUSE_S


def test_the_first_step_waits_where_that_is_asked_for() -> None:
    work = Work(LONG_S)
    began = time.monotonic()
    taking(work, lambda work, _: work.steps == 1, first_s=PAUSE_S)
    assert work.began[0] - began >= PAUSE_S


@pytest.mark.parametrize(
    "error", [StorageFull("no room"), TierUnavailable("away"), Unavailable("away"), NoRoom("a quota")]
)
def test_an_error_of_storage_is_a_warning_and_the_work_goes_on(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a traceback; the next step follows after `retry_s`."""
    work = Work(error, LONG_S)
    taking(work, lambda work, _: work.steps == 2, unforeseen_s=LONG_S)
    assert work.began[1] - work.began[0] >= PAUSE_S
    (line,) = caplog.records
    assert (line.levelno, line.getMessage(), line.exc_info) == (logging.WARNING, "some work will be tried again", None)
    assert (vars(line)["container"], vars(line)["reason"]) == (3, str(error))


def test_an_error_that_nobody_foresaw_is_logged_with_its_traceback_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work(KeyError("slot"), LONG_S)
    taking(work, lambda work, _: work.steps == 2, retry_s=LONG_S, unforeseen_s=PAUSE_S)
    assert work.began[1] - work.began[0] >= PAUSE_S
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (logging.ERROR, "some work failed and will be tried again")
    assert line.exc_info is not None
    assert line.exc_info[0] is KeyError


def test_an_error_that_the_work_expects_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Failures that only this work can meet, such as the end of its own process."""

    async def scenario() -> None:
        work = Work(LookupError("gone"), LONG_S)
        work_of = Background("some work", 3, work.step, retry_s=PAUSE_S, unforeseen_s=LONG_S, expected=(LookupError,))
        work_of.start()
        await until(lambda: work.steps == 2)
        await work_of.stop()

    run(scenario())
    assert [line.levelno for line in caplog.records] == [logging.WARNING]


def test_a_storage_failure_ends_the_work_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """The log is poisoned: all waiters have been answered, and the process is ending."""

    async def scenario() -> None:
        work = Work(StorageFailure("the disk is gone"), 0)
        work_of = Background("some work", 3, work.step, retry_s=0)
        work_of.start()
        task = work_of._task
        assert task is not None
        async with asyncio.timeout(5):
            await task
        assert (work.steps, work_of.is_started) == (1, True)
        await work_of.stop()
        assert not work_of.is_started

    run(scenario())
    assert caplog.records == []


def test_the_last_error_stays_until_a_step_goes_well() -> None:
    """An operator sees why nothing happens, for as long as nothing happens."""
    assert taking(Work(StorageFull("no room")), lambda work, _: work.steps == 3).last_error == "no room"
    assert taking(Work(KeyError("slot")), lambda work, _: work.steps == 2).last_error == "'slot'"
    assert taking(Work(TimeoutError()), lambda work, _: work.steps == 2).last_error == "TimeoutError()"
    well = Work(StorageFull("no room"), LONG_S)
    assert taking(well, lambda _, work_of: well.steps == 2 and work_of.last_error is None).last_error is None


def test_failures_that_repeat_fill_no_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning and one traceback in `TELL_EVERY_S`, whatever the reasons; a traceback is not lost to a warning."""
    errors = [StorageFull("a"), StorageFull("b"), KeyError("c"), KeyError("d"), Unavailable("e"), LONG_S]
    taking(Work(*errors), lambda work, _: work.steps == 6, retry_s=0)
    assert [(line.levelno, vars(line)["reason"]) for line in caplog.records] == [
        (logging.WARNING, "a"),
        (logging.ERROR, "'c'"),
    ]
    caplog.clear()
    monkeypatch.setattr(background, "TELL_EVERY_S", PAUSE_S)
    taking(Work(StorageFull("a")), lambda work, _: len(caplog.records) == 3, retry_s=PAUSE_S / 10)


def test_a_reason_is_clipped(caplog: pytest.LogCaptureFixture) -> None:
    """The answer of a server of long-term storage may be a page of text."""
    work_of = taking(Work(Unavailable("x" * 10_000), LONG_S), lambda work, _: work.steps == 1)
    assert work_of.last_error == "x" * REASON_CHARS_MAX
    assert vars(caplog.records[0])["reason"] == "x" * REASON_CHARS_MAX


def test_a_wait_of_its_own_may_end_a_pause() -> None:
    """The wait passes each pause, after failures too, and when it returns the next step is due at once."""

    async def scenario() -> None:
        pauses: list[float] = []
        woken = asyncio.Event()

        async def wait(pause_s: float) -> None:
            pauses.append(pause_s)
            await woken.wait()
            woken.clear()

        work = Work(5.0, StorageFull("no room"), LONG_S)
        work_of = Background("some work", 3, work.step, retry_s=7.0, first_s=1.0, wait=wait)
        work_of.start()
        for steps in range(3):
            await until(lambda: len(pauses) == steps + 1)  # noqa: B023
            assert work.steps == steps
            woken.set()
        await until(lambda: len(pauses) == 4)
        await work_of.stop()
        assert pauses == [1.0, 5.0, 7.0, LONG_S]

    run(scenario())


def test_stop_cancels_the_step_and_waits_for_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """When `stop` returns, nothing of the step runs any more, and no other begins; a second stop does nothing."""

    async def scenario() -> None:
        ended: list[str] = []
        begun = asyncio.Event()

        async def step() -> float:
            begun.set()
            try:
                await asyncio.sleep(LONG_S)
            finally:
                await asyncio.sleep(PAUSE_S)  # it gives back what it holds
                ended.append("step")
            return 0

        work_of = Background("some work", 3, step, retry_s=0)
        work_of.start()
        await begun.wait()
        await work_of.stop()
        assert ended == ["step"]
        await work_of.stop()
        await asyncio.sleep(PAUSE_S)
        assert ended == ["step"]

    run(scenario())
    assert caplog.records == []


def test_work_of_a_whole_node_outlives_a_container(caplog: pytest.LogCaptureFixture) -> None:
    """One of them is lost, and the others are looked after: a word of it, and of no container."""

    async def scenario() -> None:
        work = Work(StorageFailure("the disk is gone"), 0)
        work_of = Background("some work", None, work.step, retry_s=0)
        assert "some work" in repr(work_of)
        work_of.start()
        await until(lambda: work.steps > 2)
        assert work_of.last_error is None
        await work_of.stop()

    run(scenario())
    assert [line.getMessage() for line in caplog.records] == ["some work will be tried again"]
    assert not hasattr(caplog.records[0], "container")


def test_stop_ends_a_pause() -> None:
    work = Work(LONG_S)
    began = time.monotonic()
    taking(work, lambda work, _: work.steps == 1)
    assert time.monotonic() - began < LONG_S / 100


def test_work_that_never_began_can_be_stopped() -> None:
    """A start that fails closes what it has not begun."""
    work = Work(0)

    async def scenario() -> None:
        await Background("some work", 3, work.step, retry_s=0).stop()

    run(scenario())
    assert work.steps == 0
