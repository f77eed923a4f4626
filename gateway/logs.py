"""Log lines on stderr: one event per line, as text or JSON, never waited for.

Keeps: an event is one line whatever it carries; the event loop never waits for the reader of stderr (a
full pipe costs lines, which are counted, never time); one place in the code writes at most a burst of
lines per window, and further ones are counted. Callers pass facts in `extra`, never record contents or
secrets.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

logger = logging.getLogger(__name__)

Format = Literal["text", "json"]

WINDOW_S: Final = 10.0
BURST: Final[Mapping[int, int]] = {logging.WARNING: 10, logging.ERROR: 10}
"""Lines per place and window, for warnings, which strangers can provoke. Other levels have BURST_INFO."""
BURST_INFO: Final = 200
PLACES_MAX: Final = 512
"""Places remembered; our code has fewer, so this only bounds libraries."""
RECENT_MAX: Final = 500
RECENT_CHARS_MAX: Final = 500
"""Warnings that are remembered, and characters of each: a quarter of a MB."""
QUEUE_LINES_MAX: Final = 10_000
FLUSH_S_MAX: Final = 2.0
OWN_LOGGERS: Final = ("gateway", "core", "tier2")

_LAST: Final = "is_last_word"
LAST_WORD: Final[Mapping[str, object]] = {_LAST: True}
"""The `extra` of an event that says why a command ends: text has it as every command says it, `penstock: ...`."""
_STANDARD: Final = frozenset(
    logging.LogRecord("", 0, "", 0, "", (), None).__dict__.keys() | {"message", "asctime", "taskName", _LAST}
)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO gateway.broker serving kafka=localhost:9092`; a last word as ToolFormatter."""

    def format(self, record: logging.LogRecord) -> str:
        if _LAST in record.__dict__:
            return _in_dialect(record)
        return f"{_time(record)} {record.levelname} {record.name} {_told(record)}"


class ToolFormatter(logging.Formatter):
    """`penstock: what is wrong`, as commands say it that end: without time, level and logger."""

    def format(self, record: logging.LogRecord) -> str:
        return _in_dialect(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per event: time, level, logger, message, then the event's own facts."""

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(head | facts(record), default=str, ensure_ascii=False)


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """The caller's `extra`, and the exception if there is one."""
    found = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.exc_info:
        found["exception"] = logging.Formatter().formatException(record.exc_info)
    return found


class RepeatFilter(logging.Filter):
    """Lets a burst of lines per place in the code and window through, and counts the rest.

    The place's next line after the window has the count (`suppressed=N`), or a line at the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], list[float]] = {}  # window's start, lines, suppressed

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        place = (record.pathname, record.lineno)
        state = self._places.get(place)
        if state is None:
            if len(self._places) >= PLACES_MAX:
                self._places.pop(next(iter(self._places)))
            state = self._places[place] = [now, 0, 0]
        if now - state[0] >= WINDOW_S:
            if state[2]:
                record.suppressed = int(state[2])
            state[:] = [now, 0, 0]
        if state[1] >= BURST.get(record.levelno, BURST_INFO):
            state[2] += 1
            return False
        state[1] += 1
        return True

    def untold(self) -> int:
        """Lines that were suppressed and not yet counted in another line."""
        return int(sum(state[2] for state in self._places.values()))


class Recent:
    """The last warnings and errors of this process, for whoever asks; clipped, as they may quote strangers."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str, str]] = deque(maxlen=RECENT_MAX)
        """Time in milliseconds since 1970, level, text: the oldest first."""
        self.count = 0
        """Of all since the start."""

    def add(self, record: logging.LogRecord) -> None:
        told = " ".join(f"{key}={_word(value)}" for key, value in facts(record).items() if key != "exception")
        self.count += 1
        text = f"{record.getMessage()} {told}".strip()
        self.lines.append((int(record.created * 1000), record.levelname.lower(), text[:RECENT_CHARS_MAX]))


def recent() -> Recent | None:
    """This process's last warnings, once `setup` was called."""
    found = (one.recent for one in logging.getLogger().handlers if isinstance(one, StderrHandler))
    return next(found, None)


class StderrHandler(logging.Handler):
    """Queues formatted lines for one thread that writes them; drops lines that do not fit, and tells their number."""

    def __init__(self, fd: int, dropped: Callable[[int], str] | None = None) -> None:
        super().__init__()
        self._fd = fd
        self._told_dropped = dropped or _dropped_line
        self.recent = Recent()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake = threading.Condition(threading.Lock())
        self._idle = True
        self._thread = threading.Thread(target=self._write_lines, name="log-lines", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if record.levelno >= logging.WARNING:
                self.recent.add(record)
        except Exception:
            self.handleError(record)
            return
        with self._wake:
            if len(self._lines) >= QUEUE_LINES_MAX:
                self._dropped += 1
                return
            self._lines.append(line)
            self._idle = False
            self._wake.notify_all()

    def flush(self) -> None:
        """Wait until queued lines are written, but not for ever: perhaps no process reads them."""
        deadline = time.monotonic() + FLUSH_S_MAX
        with self._wake:
            while not self._idle and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)

    def _write_lines(self) -> None:
        while True:
            with self._wake:
                while not self._lines:
                    self._idle = True
                    self._wake.notify_all()
                    self._wake.wait()
                lines = [*self._lines]
                self._lines.clear()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(self._told_dropped(dropped))
            self._write("".join(f"{line}\n" for line in lines).encode(errors="replace"))

    def _write(self, data: bytes) -> None:
        """Write all of it; a closed stderr costs the lines and nothing else."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError:
                return


def setup(form: Format, level: str, formatter: type[logging.Formatter] = TextFormatter) -> None:
    """Send this process's events to stderr; those of libraries from warnings on. `formatter`: of text."""
    handler = StderrHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter() if form == "json" else formatter())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())


def setup_of_tool(form: Format = "text") -> None:
    """The same for a command that ends: warnings and errors, in the words of all other refusals."""
    setup(form, "warning", ToolFormatter)


def flush() -> None:
    """Write queued lines, and the count of suppressed ones that no line has yet, before the process ends."""
    for handler in logging.getLogger().handlers:
        untold = sum(limiter.untold() for limiter in handler.filters if isinstance(limiter, RepeatFilter))
        if untold:
            logger.warning("repeated lines were left out", extra={"suppressed": untold})
        handler.flush()


def _in_dialect(record: logging.LogRecord) -> str:
    return f"penstock: {_told(record)}"


def _told(record: logging.LogRecord) -> str:
    """Message and facts, in one line."""
    fields = "".join(f" {key}={_word(value)}" for key, value in facts(record).items())
    message = record.getMessage()
    if not message.isprintable():  # it may quote a server, whose bytes must not move a terminal's cursor either
        message = "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)
    return f"{message}{fields}"


def _word(value: object) -> str:
    """A value as one word of a line; quoted if it would not be one."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    plain = text and text.isprintable() and not any(mark in text for mark in " \"'=")
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def _time(record: logging.LogRecord) -> str:
    return _stamp(record.created)


def _dropped_line(count: int) -> str:
    return f"{_now()} WARNING gateway.logs lines dropped count={count}"


def _now() -> str:
    return _stamp(time.time())


def _stamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"
