"""What a command says that names several things, of which some are refused.

Keeps: the answer names what was done although the rest was refused; a refusal is one line, with the exit code of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NoReturn

from gateway.cli.output import Output
from gateway.cli.refused import Refused

REASONS_MAX: Final = 3
"""Reasons in the line of a refusal; `--json` has all."""


def tell_deleted(output: Output, names: Sequence[str], refused: Mapping[str, str]) -> None:
    """Say which are deleted; `refused` has the reasons of the others. Raises Refused if there are any."""
    gone = [name for name in names if name not in refused]
    if output.as_json and (gone or len(names) > 1):
        output.result({"deleted": gone} | ({"refused": dict(refused)} if refused else {}))
    elif gone:
        output.line(f"{', '.join(gone)}: deleted")
    if refused:
        raise Refused(reasons(refused.values()))


def tell_left_alone(output: Output, done: str, names: Sequence[str], refused: Mapping[str, str]) -> NoReturn:
    """Say that nothing was `done` to any of several, as `refused` has reasons for some of them. Raises Refused."""
    left = [name for name in names if name not in refused]
    if output.as_json and len(names) > 1:
        output.result({done: [], "refused": dict(refused), "not_tried": left})
    elif not output.as_json:
        for name in left:
            output.line(f"{name}: not tried")
    raise Refused(reasons(refused.values()))


def reasons(refused: Collection[str]) -> str:
    """All in one line, or the first ones."""
    shown, more = list(refused)[:REASONS_MAX], len(refused) - REASONS_MAX
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
