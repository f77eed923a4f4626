"""The tools for a person at a terminal: records are not garbled, questions are asked, what is typed is answered."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from select import select

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.launching import END_WITHIN_S, PENSTOCK

pytestmark = pytest.mark.slow

END_OF_INPUT = "\x04"
AT_TTY = "import os, sys; os.login_tty({slave}); os.execv(sys.argv[1], sys.argv[1:])"
"""Becomes a command whose terminal this is."""
BAR = "\u2501"
"""What bars are drawn of."""


class Terminal:
    """A command whose three streams are one terminal, and which a person may type to."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self.shown = ""
        """All that the terminal was sent, with what was typed, as it echoes that."""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> None:
        """Return when the terminal has shown this."""
        deadline = time.monotonic() + END_WITHIN_S
        while text not in self.shown:
            assert self._read(deadline), self.shown

    def end(self) -> int:
        """The exit code, once the command has ended."""
        deadline = time.monotonic() + END_WITHIN_S
        while self._read(deadline):
            pass
        return self._process.wait(END_WITHIN_S)

    def _read(self, deadline: float) -> bool:
        """Whether there may be more."""
        ready, _, _ = select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing comes any more after {self.shown!r}"
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the other side is closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextlib.contextmanager
def at_terminal(tools: Tools, *arguments: str) -> Iterator[Terminal]:
    """A command at a terminal of its own; killed in the end, if it has not ended."""
    master, slave = pty.openpty()
    environ = {**os.environ, "XDG_CONFIG_HOME": str(tools.home), "TERM": "xterm", "COLUMNS": "120", "TZ": "UTC"}
    command = [PENSTOCK, *arguments, "--bootstrap", tools.address]
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TTY.format(slave=slave), *command], env=environ, pass_fds=[slave]
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait(END_WITHIN_S)
        os.close(master)


def test_records_are_not_garbled(tools: Tools) -> None:
    """The terminal shows records and nothing else; where they are shown at the end, a bar tells of the way there."""
    tools.say("topics", "create", "at-terminal", "-p", "3")
    tools.say("produce", "at-terminal", "--template", "line {{seq}}", "--key-template", "{{seq}}", "-n", "2000")

    with at_terminal(tools, "consume", "at-terminal") as terminal:
        assert terminal.end() == 0
    assert sorted(terminal.shown.splitlines()) == sorted(f"line {n}" for n in range(2000))

    with at_terminal(tools, "consume", "at-terminal", "--with-key", "7", "--newest") as terminal:
        assert terminal.end() == 0
    assert terminal.shown.splitlines()[-1].endswith("line 7")
    assert BAR in terminal.shown


def test_what_is_typed_is_written_at_once(tools: Tools) -> None:
    """Each line as it is typed, and a refusal comes with the line that is refused, not at the end of the input."""
    tools.say("topics", "create", "typed", "-p", "1", "--set", "max.message.bytes=200")
    with at_terminal(tools, "produce", "typed") as terminal:
        terminal.until("a line is a record; Ctrl-D ends")
        terminal.type("first\n")
        assert tools.say("consume", "typed", "--follow", "--from", "start", "-n", "1") == "first\n"
        terminal.type(f"{'x' * 300}\n")
        assert terminal.end() == 1
    assert BAR not in terminal.shown
    assert "penstock: record 2: MESSAGE_SIZE_TOO_LARGE" in terminal.shown

    with at_terminal(tools, "produce", "typed") as terminal:
        terminal.until("Ctrl-D ends")
        terminal.type(f"second\n{END_OF_INPUT}")
        terminal.until("1 record written to typed")
        assert terminal.end() == 0


@pytest.mark.parametrize(("answer", "is_kept"), [("n", True), ("", True), ("y", False)])
def test_a_question(tools: Tools, answer: str, is_kept: bool) -> None:
    """It names what would be destroyed; anything but a yes changes nothing."""
    name = f"asked-{answer or 'nothing'}"
    tools.say("topics", "create", name, "-p", "2")
    with at_terminal(tools, "topics", "delete", name) as terminal:
        terminal.until(f"{name}: 2 partitions and every record in them are deleted for good. Go on? [y/N] ")
        terminal.type(f"{answer}\n")
        assert terminal.end() == int(is_kept)
    assert ("nothing was changed" in terminal.shown) is is_kept
    assert (name in tools.say("topics", "list")) is is_kept


def test_a_password_is_not_shown(tools: Tools) -> None:
    """It is asked for twice, and nothing of it is echoed."""
    with at_terminal(tools, "credentials", "add", "ann") as terminal:
        terminal.until("New password of ann: ")
        terminal.type("open-sesame\n")
        terminal.until("Again: ")
        terminal.type("open-sesane\n")
        assert terminal.end() == 2
    assert "the two differ; nothing was changed" in terminal.shown
    assert "open-ses" not in terminal.shown
