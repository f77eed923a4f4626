"""`penstock streams ls|show|scale|seal`: the REST API, for people in a terminal.

Keeps: `--json` prints the API's answer unchanged; every error is one line on stderr.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

from gateway.exits import ExitCode

TIMEOUT_S: Final = 60.0
EPOCHS_SHOWN: Final = 200
_SPLIT: Final = re.compile(r"(\d+)(?:@(\d+(?:,\d+)*))?")
_MERGE: Final = re.compile(r"\d+(?:,\d+)+")
_CREDENTIALS: Final = re.compile(r"(^|//)[^/?#]*@")


class Refused(Exception):
    """The command cannot be done."""

    def __init__(self, why: str, code: ExitCode = ExitCode.UNEXPECTED) -> None:
        super().__init__(why)
        self.code = code


def run_ls(url: str, *, as_json: bool) -> ExitCode:
    """List streams."""

    def ls() -> None:
        from gateway.cli.streams_picture import show_list

        listed = _all_streams(url)
        _print(listed) if as_json else show_list(listed)

    return _run(ls)


def _all_streams(url: str) -> Any:
    """The whole list, in the form of one answer of the API."""
    listed = page = _call(url, "GET", "/streams")
    while page["streams"] and len(listed["streams"]) < page["total"]:
        page = _call(url, "GET", f"/streams?after={quote(listed['streams'][-1]['name'])}")
        listed["streams"] += page["streams"]
    return listed


def run_show(url: str, name: str, *, as_json: bool) -> ExitCode:
    """Show one stream."""

    def show() -> None:
        from gateway.cli.streams_picture import show_stream

        path = f"/streams/{quote(name, safe='')}"
        if as_json:
            _print(_call(url, "GET", path))
        else:
            show_stream(_call(url, "GET", f"{path}?epochs={EPOCHS_SHOWN}"))

    return _run(show)


def run_scale(
    url: str, name: str, *, split: str | None, merge: str | None, token: str | None, as_json: bool
) -> ExitCode:
    """Split or merge segments."""

    def scale() -> None:
        body = _scale_request(split, merge)
        scaled = _call(url, "POST", f"/streams/{quote(name, safe='')}/scale", body, token)
        if as_json:
            _print(scaled)
            return
        sealed, opened = (", ".join(map(str, scaled[part])) for part in ("sealed", "opened"))
        print(f"{name}: epoch {scaled['epoch']} began; sealed: {sealed}; opened: {opened}")

    return _run(scale)


def run_seal(url: str, name: str, *, yes: bool, token: str | None, as_json: bool) -> ExitCode:
    """Seal a stream, once the user has confirmed it."""

    def seal() -> None:
        if not yes:
            _ask_to_seal(name)
        sealed = _call(url, "POST", f"/streams/{quote(name, safe='')}/seal", None, token)
        _print(sealed) if as_json else print(f"{name} is sealed: it can be read, and takes no more records")

    return _run(seal)


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


def _run(command: Callable[[], None]) -> ExitCode:
    try:
        command()
    except Refused as refused:
        print(f"penstock: {refused}", file=sys.stderr)
        return refused.code
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stderr.close()
    return ExitCode.CLEAN


def _print(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


def _call(url: str, method: str, path: str, body: object = None, token: str | None = None) -> Any:
    connection, base = _connection(url)
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if token := (token or "").strip():
        if not (token.isascii() and token.isprintable()):  # not quoted: the token is a secret
            why = "--token, or PENSTOCK_HTTP_TOKEN: it holds characters that no header of a request can carry"
            raise Refused(why, ExitCode.CONFIGURATION)
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, f"{base}/api/v1{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Refused(f"no gateway answers at {_named(url)} ({error}); say where it is with --url") from error
    finally:
        connection.close()
    try:
        told = json.loads(content)
    except ValueError as error:
        raise Refused(f"{_named(url)} answers {answer.status}, and is no Penstock gateway") from error
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise Refused("the gateway wants its http.token: give it with --token, or in PENSTOCK_HTTP_TOKEN")
    if answer.status != HTTPStatus.OK:
        raise Refused(str(told.get("detail", answer.reason)) if isinstance(told, dict) else answer.reason)
    return told


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
        if not parts.hostname:
            raise ValueError("no host")
        return kind(parts.hostname, parts.port, timeout=TIMEOUT_S), parts.path.rstrip("/")
    except (KeyError, ValueError) as error:
        raise Refused(f"--url {_named(url)}: allowed: http(s)://HOST[:PORT]", ExitCode.CONFIGURATION) from error


def _named(url: str) -> str:
    """The address for a message, without the credentials before an @."""
    return _CREDENTIALS.sub(r"\1[hidden]@", url)
