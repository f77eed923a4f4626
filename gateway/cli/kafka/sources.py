"""Records to write: from lines, files, JSON or a template.

Keeps: input is read as it is needed, so it may be endless; a line has a bound.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from gateway.cli.client.cluster import NewRecord
from gateway.cli.kafka.templates import Template
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

LINE_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Common:
    """What all records of one command have."""

    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None

    def record(self, value: bytes | None, key: bytes | None = None) -> NewRecord:
        return NewRecord(self.key if key is None else key, value, self.headers, self.partition)


def headers_of(given: Sequence[str] | None) -> tuple[tuple[str, bytes], ...]:
    """`NAME=VALUE` each. Raises Refused."""
    found = []
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise Refused(f"--header {text[:200]!r}: must be NAME=VALUE", ExitCode.CONFIGURATION)
        found.append((name, value.encode()))
    return tuple(found)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. Raises Refused for one that is too long."""
    while line := file.readline(LINE_BYTES_MAX):
        if len(line) == LINE_BYTES_MAX:
            raise Refused(f"a line is longer than {LINE_BYTES_MAX} bytes")
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def from_lines(file: BinaryIO, common: Common, separator: str | None) -> Iterator[NewRecord]:
    """A record a line; with a separator, what is before it is the key. Raises Refused for a line without it."""
    if separator is None:
        yield from (common.record(line) for line in lines(file))
        return
    divider = separator.replace("\\t", "\t").encode()
    for number, line in enumerate(lines(file), 1):
        key, found, value = line.partition(divider)
        if not found:
            raise Refused(f"line {number} has no {separator!r} between key and value", ExitCode.CONFIGURATION)
        yield common.record(value, key)


def from_json(file: BinaryIO, common: Common) -> Iterator[NewRecord]:
    """A record a line, as `consume --json` writes them. Its partition is taken only if it is asked for."""
    for number, line in enumerate(lines(file), 1):
        try:
            told = json.loads(line)
            if not isinstance(told, dict):
                raise ValueError("it is no object")
            headers = tuple((str(one["name"]), _bytes(one, "value") or b"") for one in told.get("headers", ()))
            stamp = told.get("timestamp")
            yield NewRecord(
                _bytes(told, "key") if common.key is None else common.key,
                _bytes(told, "value"),
                (*headers, *common.headers),
                common.partition,
                stamp if isinstance(stamp, int) and stamp >= 0 else None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"line {number} is no record in JSON: {str(error)[:200]}", ExitCode.CONFIGURATION) from None


def from_files(paths: Sequence[Path], common: Common) -> Iterator[NewRecord]:
    """A record a file, its content as the value."""
    for path in paths:
        try:
            yield common.record(path.read_bytes())
        except OSError as error:
            raise Refused(f"{path}: cannot be read: {error.strerror}", ExitCode.CONFIGURATION) from None


def from_template(template: Template, key: Template | None, common: Common, count: int | None) -> Iterator[NewRecord]:
    """Generated records; without a count for ever."""
    for number in itertools.count() if count is None else range(count):
        made = None if key is None else key.made(number).encode()
        yield common.record(template.made(number).encode(), made)


def paced(
    records: Iterator[NewRecord],
    rate: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[NewRecord]:
    """The records, at most so many a second. `clock` and `sleep` count seconds."""
    began = clock()
    for number, record in enumerate(records):
        if rate is not None and (early := began + number / rate - clock()) > 0:
            sleep(early)
        yield record


def _bytes(told: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_base64" in told:
        return base64.b64decode(told[f"{name}_base64"], validate=True)
    value = told.get(name)
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value)).encode()
