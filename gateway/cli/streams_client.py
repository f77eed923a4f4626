"""`penstock streams ls|show|scale|move|seal`: the REST API, for people in a terminal.

Keeps: `--json` prints the API's answer unchanged; every error is one line on stderr.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final
from urllib.parse import quote

from gateway.cli.client.rest import Rest
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

EPOCHS_SHOWN: Final = 200
_SPLIT: Final = re.compile(r"(\d+)(?:@(\d+(?:,\d+)*))?")
_MERGE: Final = re.compile(r"\d+(?:,\d+)+")


def ls(rest: Rest, *, as_json: bool) -> None:
    """List streams."""
    from gateway.cli.streams_picture import show_list

    listed = _all_streams(rest)
    _print(listed) if as_json else show_list(listed)


def _all_streams(rest: Rest) -> Any:
    """The whole list, in the form of one answer of the API."""
    listed = page = rest.call("GET", "/streams")
    while page["streams"] and len(listed["streams"]) < page["total"]:
        page = rest.call("GET", f"/streams?after={quote(listed['streams'][-1]['name'])}")
        listed["streams"] += page["streams"]
    return listed


def show(rest: Rest, name: str, *, as_json: bool) -> None:
    """Show one stream."""
    from gateway.cli.streams_picture import show_stream

    path = f"/streams/{quote(name, safe='')}"
    if as_json:
        _print(rest.call("GET", path))
    else:
        show_stream(rest.call("GET", f"{path}?epochs={EPOCHS_SHOWN}"))


def scale(rest: Rest, name: str, *, split: str | None, merge: str | None, as_json: bool) -> None:
    """Split or merge segments."""
    body = _scale_request(split, merge)
    scaled = rest.call("POST", f"/streams/{quote(name, safe='')}/scale", body)
    if as_json:
        _print(scaled)
        return
    sealed, opened = (", ".join(map(str, scaled[part])) for part in ("sealed", "opened"))
    print(f"{name}: epoch {scaled['epoch']} began; sealed: {sealed}; opened: {opened}")


def move(rest: Rest, name: str, slot: int, container: int, *, as_json: bool) -> None:
    """Move a slot, and wait until it is there."""
    path, body = f"/streams/{quote(name, safe='')}/move", {"slot": slot, "container": container}
    while (moved := rest.call("POST", path, body))["state"] == "moving":
        print(f"{name}: slot {slot} is being copied to container {container}", file=sys.stderr, flush=True)
    _print(moved) if as_json else print(f"{name}: slot {slot} lies in container {container}")


def seal(rest: Rest, name: str, *, yes: bool, as_json: bool) -> None:
    """Seal a stream, once the user has confirmed it."""
    if not yes:
        _ask_to_seal(name)
    sealed = rest.call("POST", f"/streams/{quote(name, safe='')}/seal")
    _print(sealed) if as_json else print(f"{name} is sealed: it can be read, and takes no more records")


def _ask_to_seal(name: str) -> None:
    for_good = f"{name} takes no more records once it is sealed, and nobody can undo that"
    if not sys.stdin.isatty():
        raise Refused(f"{for_good}: say --yes where there is no terminal to ask at", ExitCode.CONFIGURATION)
    print(f"{for_good}. Seal it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused(f"{name} is left as it is")


def _scale_request(split: str | None, merge: str | None) -> dict[str, Any]:
    if (split is None) == (merge is None):
        raise Refused("give either --split ID[@SLOT,...] or --merge ID,ID", ExitCode.CONFIGURATION)
    if split is not None:
        match = _SPLIT.fullmatch(split.replace(" ", ""))
        if match is None:
            raise Refused(f"--split {split}: allowed: ID or ID@SLOT,SLOT,...", ExitCode.CONFIGURATION)
        return {"split": {"segment": int(match[1]), "at": [int(slot) for slot in (match[2] or "").split(",") if slot]}}
    assert merge is not None
    if not _MERGE.fullmatch(merge.replace(" ", "")):
        raise Refused(f"--merge {merge}: allowed: ID,ID,...", ExitCode.CONFIGURATION)
    return {"merge": [int(number) for number in merge.split(",")]}


def _print(answer: Any) -> None:
    print(json.dumps(answer, indent=2))
