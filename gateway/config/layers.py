"""The sources of configuration: a TOML file, the environment, flags.

Keeps: every given value carries the name of its source, so that a message can name it. Text of every
source is trimmed, and an environment variable without text counts as not set. Nothing else is checked
here; `gateway.config.loading` judges keys and values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.exits import CannotGoOn

ENVIRONMENT_PREFIX: Final = "PENSTOCK_"

# Kubernetes and Docker put the addresses of services into the environment of neighbouring containers:
# one named "penstock" yields PENSTOCK_PORT=tcp://..., which is no configuration.
_SERVICE_LINK: Final = re.compile(
    r"PENSTOCK_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)"
)
_KEY: Final = re.compile(r"(?:tier2|[a-z]+)(?:\.[a-z]+)+")
KEY_CHARS_SHOWN: Final = 60
_BARE_DOTTED_KEY: Final = re.compile(r"^([ \t]*)([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+)(?=[ \t]*=)", re.M)


class ConfigError(CannotGoOn):
    """The configuration cannot be used; the message names each problem and its remedy, one per line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and its source."""

    value: object
    source: str


Layer = Mapping[str, Given]


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """`PENSTOCK_LOG_SYNC_MODE=group` gives `log.sync.mode`; an empty variable gives nothing."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", "."): Given(value.strip(), f"environment {name}")
        for name, value in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and value.strip() and not _SERVICE_LINK.fullmatch(name)
    }


def assignments_layer(assignments: Sequence[str]) -> Layer:
    """`--set KEY=VALUE`; the last one of a key wins."""
    layer: dict[str, Given] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            text = assignment.strip()
            key = found[0][:KEY_CHARS_SHOWN] if (found := _KEY.match(text)) else ""
            rest = "" if key == text else "..."  # it may be a secret
            raise ConfigError([f"--set {key}{rest}: must be KEY=VALUE"])
        layer[key.strip()] = Given(value.strip(), "--set")
    return layer


def file_layer(path: Path) -> Layer:
    """A TOML file: `log.sync.mode`, `"log.sync.mode"` and `mode` under `[log.sync]` are one key."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as exc:
        raise ConfigError([f"--config {path}: cannot be read: {exc.strerror}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"--config {path}: is not UTF-8 text: {exc.reason} at byte {exc.start}"]) from None
    layer: dict[str, Given] = {}
    for key, value in _flattened(_parsed(path, text), ""):
        if key in layer:
            raise ConfigError([f"{path}: {key} is given twice, in two spellings"])
        layer[key] = Given(trimmed(value), f"file {path}")
    return layer


def trimmed(value: object) -> object:
    if isinstance(value, list):
        return [trimmed(item) for item in value]
    return value.strip() if isinstance(value, str) else value


def _parsed(path: Path, text: str) -> dict[str, object]:
    """The file's tables. Kafka has keys that begin other keys (`max.connections` and
    `max.connections.per.ip`), which TOML takes for a value that is also a table: read as quoted
    keys they can stand side by side."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        try:
            return tomllib.loads(_BARE_DOTTED_KEY.sub(r'\1"\2"', text))
        except tomllib.TOMLDecodeError:
            raise ConfigError([f"{path}: is not TOML: {exc}"]) from exc


def _flattened(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
