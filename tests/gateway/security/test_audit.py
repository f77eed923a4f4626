"""The audit log: what is told, in which form, and how much of it."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

from gateway.config.loading import load
from gateway.security.acls import Operation, ResourceType
from gateway.security.audit import AUTHENTICATION_FAILED, CHARS_MAX, FAILURES_PER_S, LINES_PER_S, Audit, open_audit
from tests.gateway.security.harness import ALICE, BOB, HOST, acl, authorizer_with


class Lines(logging.Handler):
    """Keeps lines."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        assert "\n" not in line
        self.told.append(json.loads(line))


def test_a_denial() -> None:
    """A denial names who, whence, what and for which request."""
    lines = Lines()
    audit = Audit(lines, tells_allowed=False, wall=lambda: 1_700_000_000.5)
    rights = authorizer_with(acls=[acl("a", Operation.READ)], audit=audit).rights(ALICE, HOST)
    rights.may(Operation.READ, ResourceType.TOPIC, "a", "Fetch")
    rights.may(Operation.WRITE, ResourceType.TOPIC, "a", "Produce")

    assert lines.told == [
        {
            "time": "2023-11-14T22:13:20.500Z",
            "event": "denied",
            "principal": "User:alice",
            "host": HOST,
            "operation": "WRITE",
            "resource": "Topic",
            "name": "a",
            "request": "Produce",
        }
    ]


def test_permissions_are_told_on_request() -> None:
    """With audit.log.level=debug each permission is a line, also the second time."""
    lines = Lines()
    authorizer = authorizer_with(acls=[acl("a", Operation.READ)], audit=Audit(lines, tells_allowed=True))
    for _ in range(2):
        assert authorizer.rights(ALICE, HOST).may(Operation.READ, ResourceType.TOPIC, "a", "Fetch")
    assert [line["event"] for line in lines.told] == ["allowed", "allowed"]


def test_one_line_whatever_is_in_it() -> None:
    """A name with line breaks, or a very long one, makes one line of bounded length."""
    lines = Lines()
    audit = Audit(lines, tells_allowed=False)
    audit.tell("denied", BOB, HOST, name='x\n{"event": "allowed"}\u2028' + "y" * 30_000)
    (line,) = lines.told
    assert line["event"] == "denied"
    assert len(line["name"]) == CHARS_MAX + 3


def test_a_flood_is_counted() -> None:
    """No more than LINES_PER_S lines are written in a second; the next line tells how many are missing."""
    now, lines = [100.0], Lines()
    audit = Audit(lines, tells_allowed=False, wall=lambda: now[0])
    for _ in range(LINES_PER_S + 25):
        audit.tell("denied", BOB, HOST)
    assert len(lines.told) == LINES_PER_S
    now[0] = 101.0
    audit.tell("denied", BOB, HOST)
    audit.tell("denied", BOB, HOST)

    assert [line.get("suppressed") for line in lines.told[-2:]] == [25, None]


def test_a_file(tmp_path: Path) -> None:
    """A file is appended to, and is for its owner only."""
    path = tmp_path / "audit.log"
    for _ in range(2):
        audit = open_audit(load(environ={}, assignments=[f"audit.log={path}"]))
        audit.tell("denied", BOB, HOST)
        audit.close()
    assert len(path.read_text().splitlines()) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_guesses_leave_room() -> None:
    """Failed authentications get a tenth of the lines: the rest is there for what is done with rights."""
    lines = Lines()
    audit = Audit(lines, tells_allowed=False, wall=lambda: 100.0)
    for _ in range(LINES_PER_S):
        audit.tell(AUTHENTICATION_FAILED, BOB, HOST)
    audit.tell("denied", BOB, HOST)

    assert [line["event"] for line in lines.told] == [AUTHENTICATION_FAILED] * FAILURES_PER_S + ["denied"]
    assert lines.told[-1]["suppressed"] == LINES_PER_S - FAILURES_PER_S
