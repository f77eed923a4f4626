"""Kafka's `server.properties`, read as a layer of the configuration.

Keeps: a key that Penstock has keeps its meaning; directories and id are translated, controllers' listeners left out.
A key of security that Penstock lacks is refused, if leaving it out would open what was closed. Every other key that is
left out is named, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.kafka_names import closes_nothing, hint_of
from gateway.config.layers import ConfigError, Given, Layer
from gateway.config.security import OVERRIDE

SUFFIX: Final = ".properties"
KEY_CHARS_MAX: Final = 100
LINE_CHARS_MAX: Final = 2_000
_SECURITY: Final = ("ssl.", "sasl.", "authorizer.", "super.users", "principal.", "client.quota.")
_PAIR: Final = re.compile(r"((?:\\.|[^\\:=\s])+)\s*[:=\s]?\s*(.*)", re.S)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.S)
_CONTROL: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Properties:
    """A file's layer, and the keys that were left out."""

    layer: Layer
    left_out: tuple[str, ...]

    @property
    def told(self) -> list[str]:
        """Lines about the keys that were left out, those of one reason together."""
        by_reason: dict[str, list[str]] = {}
        for key in self.left_out:
            reason = hint_of(key) or "Penstock has no such key"
            by_reason.setdefault(reason.removesuffix(": leave it out"), []).append(key[:KEY_CHARS_MAX])
        return [
            f"without effect here: {', '.join(keys)[:LINE_CHARS_MAX]}: {reason}" for reason, keys in by_reason.items()
        ]


def read_properties(path: Path, known: Collection[str]) -> Properties:
    """`known`: the keys that Penstock has. Raises ConfigError with every problem found."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--config {path}: cannot be read: {error}"]) from None
    given = dict(pairs(text))
    problems = [
        f"{path}: {key[:KEY_CHARS_MAX]}: Penstock has no such key of security; without it could be open what it closes"
        + (f"; {hint}" if (hint := hint_of(key)) else "")
        for key in given
        if _is_refused(key, known)
    ]
    values = {key: value for key, value in given.items() if key in known or key.startswith(OVERRIDE)}
    left_out = [key for key in given if key not in values and not _is_refused(key, known)]
    for key, ours in (("log.dirs", "data.dir"), ("log.dir", "data.dir"), ("broker.id", "node.id")):
        if key in given and ours not in values:
            values[ours] = given[key]
            left_out.remove(key)
    if "," in values.get("data.dir", ""):
        values.setdefault("data.dirs", values["data.dir"])
        values["data.dir"] = values["data.dir"].partition(",")[0].strip()
    controllers = {name.strip() for name in given.get("controller.listener.names", "").split(",")}
    for key, divider in (
        ("listeners", "://"),
        ("advertised.listeners", "://"),
        ("listener.security.protocol.map", ":"),
    ):
        if key in values:
            values[key] = _of_clients(values[key], controllers, divider)
    if problems:
        raise ConfigError(problems)
    return Properties({key: Given(value, f"file {path}") for key, value in values.items()}, tuple(left_out))


def _is_refused(key: str, known: Collection[str]) -> bool:
    return key.startswith(_SECURITY) and key not in known and not closes_nothing(key)


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Java's format: comments with # or !, a backslash joins lines, `=`, `:` or a space divides; the last one wins."""
    joined = re.sub(r"(?<!\\)((?:\\\\)*)\\\r?\n[ \t\f]*", r"\1", text)
    for line in joined.splitlines():
        stripped = line.strip()
        if stripped and stripped[0] not in "#!" and (match := _PAIR.fullmatch(stripped)):
            yield _plain(match[1]), _plain(match[2])


def _plain(text: str) -> str:
    def char(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 5 else _CONTROL.get(code, code)

    return _ESCAPE.sub(char, text)


def _of_clients(text: str, controllers: set[str], divider: str) -> str:
    """A list of listeners, NAME first in each, without those of controllers."""
    parts = filter(None, (part.strip() for part in text.split(",")))
    return ",".join(part for part in parts if part.partition(divider)[0] not in controllers)
