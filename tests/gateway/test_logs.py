"""Log lines: one per event, structured, limited, and never in anybody's way."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from gateway import logs


def record(message: str = "something happened", level: int = logging.INFO, **facts: Any) -> Any:
    made = logging.LogRecord("gateway.test", level, __file__, 10, message, (), None)
    made.created = 1_700_000_000.25
    made.__dict__.update(facts)
    return made


def in_a_process(code: str, **pipes: Any) -> subprocess.Popen[bytes]:
    start = "import logging, sys\nfrom gateway import logs\nlog = logging.getLogger('gateway.x')\n"
    return subprocess.Popen([sys.executable, "-c", start + code], **pipes)


class TestFormats:
    def test_text(self) -> None:
        """Time, level, logger, message, then facts as words."""
        line = logs.TextFormatter().format(record(topic="a b", seconds=0.1234567, hosts=["a", "b"]))

        assert line == (
            '2023-11-14T22:13:20.250Z INFO gateway.test something happened topic="a b" seconds=0.123457 hosts=a,b'
        )

    def test_json(self) -> None:
        """One object with the same facts, typed."""
        line = logs.JsonFormatter().format(record(topic="a b", partitions=3))

        assert json.loads(line) == {
            "time": "2023-11-14T22:13:20.250Z",
            "level": "info",
            "logger": "gateway.test",
            "message": "something happened",
            "topic": "a b",
            "partitions": 3,
        }

    @pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
    def test_one_event_is_one_line(self, formatter: logging.Formatter) -> None:
        """Neither a message, nor a client's name, nor a traceback breaks the line."""
        try:
            raise ValueError("two\nlines")
        except ValueError:
            failed = record("first\nsecond", client_id="evil\n2023 INFO fake")
            failed.exc_info = sys.exc_info()

        line = formatter.format(failed)

        assert "\n" not in line
        assert "ValueError" in line

    @pytest.mark.parametrize("more", [{}, logs.LAST_WORD], ids=["an event", "a last word"])
    def test_a_message_moves_no_cursor(self, more: Any) -> None:
        """What a server or a file name has put into a message is told, and does nothing to a terminal."""
        line = logs.TextFormatter().format(record("the store says \x1b[2Kall\ris\u2028well, größer", **more))

        assert line.endswith(r"the store says \x1b[2Kall\ris\u2028well, größer")


class TestRepeats:
    def test_a_burst_then_a_count(self) -> None:
        """A warning that comes without end is cut off, and its next window tells how many were."""
        now = [0.0]
        limiter = logs.RepeatFilter(lambda: now[0])
        passed = [limiter.filter(record(level=logging.WARNING)) for _ in range(1_000)]
        now[0] += logs.WINDOW_S
        after = record(level=logging.WARNING)

        assert sum(passed) == logs.BURST[logging.WARNING]
        assert limiter.filter(after)
        assert after.suppressed == 1_000 - logs.BURST[logging.WARNING]

    def test_places_do_not_disturb_one_another(self) -> None:
        """Noise from one line of code hides nothing that another has to say."""
        limiter = logs.RepeatFilter(lambda: 0.0)
        for _ in range(1_000):
            limiter.filter(record(level=logging.WARNING))
        other = record(level=logging.WARNING)
        other.lineno = 11

        assert limiter.filter(other)

    def test_memory_is_bounded(self) -> None:
        """However many places log, a fixed number is remembered."""
        limiter = logs.RepeatFilter(lambda: 0.0)
        for number in range(2 * logs.PLACES_MAX):
            made = record()
            made.lineno = number
            limiter.filter(made)

        assert len(limiter._places) == logs.PLACES_MAX


class TestStderr:
    def test_everything_is_written_before_the_end(self) -> None:
        """Lines logged before `flush` are on stderr, in order."""
        code = "logs.setup('text', 'info')\nfor i in range(150): log.info('n', extra={'i': i})\nlogs.flush()"
        process = in_a_process(code, stderr=subprocess.PIPE)
        _, written = process.communicate(timeout=20)

        assert [line.split()[-1] for line in written.decode().splitlines()] == [f"i={number}" for number in range(150)]

    def test_what_was_left_out_is_counted_at_the_end(self) -> None:
        """Repeats that no later line counts are counted by the last one."""
        code = "logs.setup('text', 'info')\nfor i in range(50): log.warning('again')\nlogs.flush()"
        process = in_a_process(code, stderr=subprocess.PIPE)
        _, written = process.communicate(timeout=20)
        *repeats, last = written.decode().splitlines()

        assert len(repeats) == logs.BURST[logging.WARNING]
        assert last.endswith(f"suppressed={50 - logs.BURST[logging.WARNING]}")

    def test_levels(self) -> None:
        """`logging.level` is for our own events; libraries are heard from warnings on."""
        code = (
            "logs.setup('text', 'debug')\nlog.debug('ours')\n"
            "logging.getLogger('lib').info('theirs')\nlogging.getLogger('lib').warning('bad')\nlogs.flush()"
        )
        process = in_a_process(code, stderr=subprocess.PIPE)
        _, written = process.communicate(timeout=20)

        assert [line.split()[-1] for line in written.decode().splitlines()] == ["ours", "bad"]

    def test_nobody_reads(self) -> None:
        """A full pipe on stderr stops neither the process nor its end."""
        code = (
            "logs.setup('text', 'info')\nlogs.FLUSH_S_MAX = 0.2\n"
            "for i in range(200): log.info('x' * 4096)\n"
            "print('done', flush=True)\nlogs.flush()"
        )
        reader, writer = os.pipe()
        try:
            started = time.monotonic()
            process = in_a_process(code, stdout=subprocess.PIPE, stderr=writer)
            os.close(writer)
            written, _ = process.communicate(timeout=30)
        finally:
            os.close(reader)

        assert written == b"done\n"
        assert time.monotonic() - started < 20

    def test_closed_stderr(self) -> None:
        """A process whose stderr went away goes on."""
        reader, writer = os.pipe()
        os.close(reader)
        process = in_a_process(
            "logs.setup('json', 'info')\nlog.info('x')\nlogs.flush()\nprint('done', flush=True)",
            stdout=subprocess.PIPE,
            stderr=writer,
        )
        os.close(writer)
        written, _ = process.communicate(timeout=20)

        assert (written, process.returncode) == (b"done\n", 0)
