"""What holds of every command, and of those that come: JSON, a question before what destroys, completion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from typer.main import get_command

from gateway.cli.app import add_tools, app
from tests.gateway.launching import run

PROCESSES: Final = {"serve", "worker"}
"""They run until they are stopped."""
OWN_JSON: Final = {"bench"}
"""Its --json names a file, as its lines come while it runs."""
DESTROYING: Final = {
    *("acls delete", "cluster drain", "cluster finalize", "cluster rebalance", "cluster rebuild", "credentials delete"),
    *("groups delete", "groups reset", "profile delete", "quotas delete", "streams seal", "tier2 init"),
    *("topics delete", "topics grow", "users delete"),
}
"""What cannot be taken back, or takes something from others."""


def commands() -> dict[str, Any]:
    """Every command by its words."""
    add_tools()

    def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield path, command
            return
        for name, one in command.commands.items():
            yield from below(f"{path} {name}".strip(), one)

    return dict(below("", get_command(app)))


def flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts}


def test_json_everywhere() -> None:
    """A script can ask every command, and is answered in JSON."""
    without = {name for name, command in commands().items() if "--json" not in flags(command)}

    assert without == PROCESSES
    assert commands().keys() >= OWN_JSON


def test_a_question_before_what_destroys() -> None:
    """Commands that ask are those that destroy, and whoever adds one decides which it is."""
    asking = {name for name, command in commands().items() if "--yes" in flags(command)}
    named = {name for name in commands() if name.split()[-1] in {"delete", "remove", "reset", "seal", "init", "drain"}}

    assert asking == DESTROYING
    assert named <= DESTROYING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("penstock to", {"topics"}),
        ("penstock groups re", {"reset"}),
        ("penstock consume --fo", {"--follow", "--format"}),
        ("penstock configs show cl", {"client-metrics"}),
        ("penstock serve --tier2-e", {"--tier2-endpoint"}),
    ],
)
def test_completion(typed: str, offered: set[str]) -> None:
    """The shell completes commands, flags and words that a command knows."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_PENSTOCK_COMPLETE": "complete_bash"}
    done = run(environ=words)

    assert (set(done.stdout.split()), done.stderr) == (offered, "")
