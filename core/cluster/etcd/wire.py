"""What goes to etcd and comes back, as values: keys, operations, compares, and their JSON. No I/O.

etcd serves its calls as JSON over HTTP beside gRPC, on the same port: 64-bit numbers are strings there, keys and values
are base64, and what is zero or empty is left out.

**Invariant**: whatever etcd, or something in its place, answers, reading it gives values of these types or Unreadable.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

REASON_CHARS_MAX: Final = 300
"""Longest part of an error's text that is kept: it comes from outside."""
OPERATIONS_MAX: Final = 60
"""The most operations that one level of a transaction has. etcd takes 128, those of the levels above counted; more are
sent as transactions within the transaction. Of compares it takes as many."""

UNAUTHENTICATED: Final = 16
DUPLICATE: Final = 9
"""gRPC's FAILED_PRECONDITION: etcd's answer to a lease id that is taken."""
NOT_FOUND: Final = 5
COMPACTED: Final = 11
MAY_PASS: Final = frozenset((1, 2, 4, 8, 10, 13, 14))
"""gRPC's codes of what another member may answer, or the same one later: no leader, too slow, too busy, no room."""


class Unanswered(Exception):
    """No answer came, for the reason it says. What was asked may have happened, or may still happen."""


class Unreadable(Unanswered):
    """An answer that is none of etcd's."""


class EtcdError(Exception):
    """etcd refuses a call: its gRPC code, and its reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code

    @property
    def is_of_token(self) -> bool:
        """Whether another token may help: this one has expired, or rights were changed since it was given."""
        reason = str(self)
        return self.code == UNAUTHENTICATED or "invalid auth token" in reason or "auth store is old" in reason


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as etcd has it: since which revision it exists, and which revision gave it its value."""

    key: bytes
    value: bytes
    created: int
    revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """A key, or all keys from `key` to before `end`."""

    key: bytes
    end: bytes | None = None
    limit: int = 0
    revision: int = 0  # as of then; 0: now
    newest_first: bool = False
    keys_only: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: a key's revision (`MOD`) or its creation's (`CREATE`); 0: there is no such key.

    With `end` it is one of all keys from `key` to before that: each has a lower revision.
    """

    key: bytes
    target: str
    revision: int
    end: bytes | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a range has found."""

    keys: tuple[KeyValue, ...]
    more: bool
    revision: int  # as of which it was read


@dataclass(frozen=True, slots=True)
class Decided:
    """How a transaction ended. `found` has the keys that each range of the taken branch found."""

    succeeded: bool
    revision: int
    found: tuple[tuple[KeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A message of a watch: changes of whole revisions, in their order. A key without value was deleted."""

    created: bool
    changes: tuple[tuple[int, KeyValue | bytes], ...]  # with their revisions; only the key of a deleted one


def unchanged(found: KeyValue | None, key: bytes) -> Compare:
    """The key has the value that was found, or is as absent as it was then."""
    return Compare(key, "MOD", 0 if found is None else found.revision)


def absent(key: bytes) -> Compare:
    return Compare(key, "CREATE", 0)


def same_life(found: KeyValue) -> Compare:
    """The key was not deleted since it was found, whatever its value is now."""
    return Compare(found.key, "CREATE", found.created)


def none_newer(prefix: bytes, revision: int) -> Compare:
    """No key that begins so was made or changed after this revision."""
    return Compare(prefix, "MOD", revision + 1, end_of(prefix))


def end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix, which does not end with 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


# To etcd


def range_body(wanted: Range) -> dict[str, Any]:
    body: dict[str, Any] = {"key": _text(wanted.key)}
    if wanted.end is not None:
        body["range_end"] = _text(wanted.end)
    if wanted.limit:
        body["limit"] = str(wanted.limit)
    if wanted.revision:
        body["revision"] = str(wanted.revision)
    if wanted.newest_first:
        body |= {"sort_target": "MOD", "sort_order": "DESCEND"}
    if wanted.keys_only:
        body["keys_only"] = True
    return body


def txn_body(
    compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range] = ()
) -> dict[str, Any]:
    """Make all changes if all compares hold; otherwise read."""
    return {
        "compare": [_compare(one) for one in compares],
        "success": _nested([_operation(one) for one in changes]),
        "failure": [{"request_range": range_body(one)} for one in otherwise],
    }


def watch_body(key: bytes, end: bytes, start: int) -> dict[str, Any]:
    return {"create_request": {"key": _text(key), "range_end": _text(end), "start_revision": str(start)}}


def _nested(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(operations) <= OPERATIONS_MAX:
        return operations
    parts = [operations[at : at + OPERATIONS_MAX] for at in range(0, len(operations), OPERATIONS_MAX)]
    return [{"request_txn": {"success": part}} for part in parts]


def _operation(operation: Put | Delete) -> dict[str, Any]:
    match operation:
        case Put(key, value, lease):
            put: dict[str, Any] = {"key": _text(key), "value": _text(value)}
            return {"request_put": put | ({"lease": str(lease)} if lease else {})}
        case Delete(key):
            return {"request_delete_range": {"key": _text(key)}}


def _compare(condition: Compare) -> dict[str, Any]:
    name = "mod_revision" if condition.target == "MOD" else "create_revision"
    body = {
        "key": _text(condition.key),
        "target": condition.target,
        "result": "EQUAL",
        name: str(condition.revision),
    }
    return body if condition.end is None else body | {"range_end": _text(condition.end), "result": "LESS"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# From etcd


def read_object(body: bytes) -> dict[str, Any]:
    """An answer as JSON. Raises Unreadable."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no JSON: {str(error)[:REASON_CHARS_MAX]}") from error
    if not isinstance(answer, dict):
        raise Unreadable("not a JSON object")
    return answer


def read_error(status: int, body: bytes) -> EtcdError:
    """An answer with an HTTP status other than 200."""
    try:
        answer = read_object(body)
    except Unreadable:
        text = body[:REASON_CHARS_MAX].decode("utf-8", "replace").strip()
        return EtcdError(14 if status >= 500 else NOT_FOUND, f"HTTP status {status}: {text}")
    return _error(answer)


def _error(answer: Mapping[str, Any]) -> EtcdError:
    code = answer.get("code", answer.get("grpc_code", 2))
    reason = str(answer.get("message", answer.get("error", "no reason")))[:REASON_CHARS_MAX]
    return EtcdError(code if isinstance(code, int) else 2, reason)


def revision_of(answer: Mapping[str, Any]) -> int:
    """The store's revision when the answer was made."""
    return number(_mapping(answer, "header"), "revision")


def cluster_of(answer: Mapping[str, Any]) -> str:
    """The id of the etcd cluster that answers; empty if the answer has none."""
    return str(_mapping(answer, "header").get("cluster_id", ""))[:40]


def read_found(answer: Mapping[str, Any]) -> Found:
    return Found(
        tuple(_key_value(one) for one in _list(answer, "kvs")), answer.get("more") is True, revision_of(answer)
    )


def read_decided(answer: Mapping[str, Any]) -> Decided:
    found = tuple(
        tuple(_key_value(one) for one in _list(_mapping(response, "response_range"), "kvs"))
        for response in _list(answer, "responses")
        if "response_range" in response
    )
    return Decided(answer.get("succeeded") is True, revision_of(answer), found)


def read_watched(line: bytes) -> Watched:
    """A line of a watch. Raises EtcdError if the watch has ended, with the code COMPACTED if its revisions are gone."""
    answer = read_object(line)
    if "error" in answer:
        raise _error(_mapping(answer, "error"))
    result = _mapping(answer, "result")
    if number(result, "compact_revision"):
        raise EtcdError(COMPACTED, "the revisions to go on from have been compacted")
    if result.get("canceled") is True:
        raise _cancelled(str(result.get("cancel_reason", "etcd has ended the watch"))[:REASON_CHARS_MAX])
    return Watched(result.get("created") is True, tuple(_changes(_list(result, "events"))))


def _cancelled(reason: str) -> EtcdError:
    """A watch is refused without a code: by its text it is one of rights, or of a moment."""
    return EtcdError(7 if "permission denied" in reason else 14, reason)


def _changes(events: list[Mapping[str, Any]]) -> Iterator[tuple[int, KeyValue | bytes]]:
    for event in events:
        changed = _key_value(_mapping(event, "kv"))
        yield changed.revision, changed.key if event.get("type") == "DELETE" else changed


def _key_value(answer: Mapping[str, Any]) -> KeyValue:
    return KeyValue(
        _bytes(answer, "key"),
        _bytes(answer, "value"),
        number(answer, "create_revision"),
        number(answer, "mod_revision"),
        number(answer, "lease"),
    )


def number(answer: Mapping[str, Any], name: str) -> int:
    """A 64-bit number of an answer. Raises Unreadable."""
    value = answer.get(name, 0)
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Unreadable(f"{name} is no number")


def _bytes(answer: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(answer.get(name, ""), validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Unreadable(f"{name} is no base64") from error


def _mapping(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = answer.get(name, {}) if isinstance(answer, Mapping) else None
    if not isinstance(value, Mapping):
        raise Unreadable(f"{name} is no object")
    return value


def _list(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = answer.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise Unreadable(f"{name} is no list of objects")
    return value
