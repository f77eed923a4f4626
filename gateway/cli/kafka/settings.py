"""`KEY=VALUE` on a command line, and files that describe topics.

Keeps: sizes and times may have units wherever a key counts bytes or time; nothing else about keys is judged here, the
cluster does that.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.refused import Refused
from gateway.config.quantities import in_unit_of
from gateway.exits import ExitCode


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic that a file or flags describe; -1 leaves the number to the cluster."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str]


def assignments(given: Sequence[str] | None, flag: str = "--set") -> dict[str, str]:
    """`KEY=VALUE` by key. Raises Refused for another form."""
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise Refused(f"{flag} {text[:200]!r}: must be KEY=VALUE", ExitCode.CONFIGURATION)
        found[key.strip()] = _with_unit(key.strip(), value.strip())
    return found


def topics_in(path: Path) -> list[TopicSettings]:
    """The topics of a file: tables of TOML, `[NAME]` with partitions, replication and configs, or the same as JSON.

    Raises Refused for another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read: {str(error)[:300]}", ExitCode.CONFIGURATION) from None
    if not isinstance(content, dict) or not content:
        raise Refused(f"{path}: describes no topic; one is a table, [NAME]", ExitCode.CONFIGURATION)
    return [_topic(path, name, told) for name, told in content.items()]


def _topic(path: Path, name: str, told: object) -> TopicSettings:
    if not isinstance(told, dict):
        raise Refused(f"{path}: {name[:200]}: a topic is a table, [NAME]", ExitCode.CONFIGURATION)
    known = dict(told)
    partitions, replication = known.pop("partitions", -1), known.pop("replication", -1)
    configs = known.pop("configs", {})
    if known:
        allowed = "allowed: partitions, replication, configs"
        raise Refused(f"{path}: {name[:200]}: unknown setting {next(iter(known))[:200]!r}; {allowed}")
    if not isinstance(partitions, int) or not isinstance(replication, int) or not isinstance(configs, dict):
        raise Refused(f"{path}: {name[:200]}: partitions and replication are numbers, configs is a table")
    flat = dict(_flat(configs, ""))
    return TopicSettings(name, partitions, replication, {key: _with_unit(key, _text(it)) for key, it in flat.items()})


def _flat(table: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    """`retention.ms = 1` is a table within a table for TOML."""
    found: list[tuple[str, object]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _with_unit(key: str, value: str) -> str:
    try:
        return in_unit_of(key, value)
    except ValueError as error:
        raise Refused(f"{key[:200]} = {value[:200]}: {error}", ExitCode.CONFIGURATION) from None
