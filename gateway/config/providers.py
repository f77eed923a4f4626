"""Values that lie elsewhere: `${file:PATH:KEY}`, `${dir:PATH:NAME}` and `${env:NAME}` in a value of the configuration.

They are Kafka's config providers, without classes: the property KEY of a properties file, the content of the file NAME
in a directory, a variable of the environment. What was put in is not looked through again.

Keeps: only the operator's own layers are resolved, once, at the start; a value that comes by Kafka's protocol or by
HTTP never is. What was found is in no message.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config.layers import ConfigError, Given
from gateway.config.properties import pairs
from gateway.config.secrets import read_secret

PROPERTIES_BYTES_MAX: Final = 1024 * 1024
_PLACE: Final = re.compile(r"\$\{(file|dir|env):([^}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True)
class Providers:
    """Looks values up; `files` are those that it has read."""

    environ: Mapping[str, str]
    files: dict[Path, None] = field(default_factory=dict)

    def resolved(self, given: Mapping[str, Given]) -> dict[str, Given]:
        """The values with what they refer to. Raises ConfigError with every problem found."""
        problems: list[str] = []
        found: dict[str, Given] = {}
        for key, value in given.items():
            try:
                found[key] = self._one(value)
            except ValueError as wrong:
                problems.append(f"{key[:100]} ({value.source}): {wrong}")
        if problems:
            raise ConfigError(problems)
        return found

    def _one(self, given: Given) -> Given:
        """Raises ValueError."""
        if isinstance(given.value, list):
            items = [self._text(item) if isinstance(item, str) else item for item in given.value]
            return given if items == given.value else Given(items, f"{given.source}, with values from elsewhere")
        if not isinstance(given.value, str) or not _PLACE.search(given.value):
            return given
        return Given(self._text(given.value), f"{given.source}, with values from elsewhere")

    def _text(self, text: str) -> str:
        return _PLACE.sub(lambda place: self._value(place[1], place[2]), text)

    def _value(self, provider: str, what: str) -> str:
        if provider == "env":
            return self._variable(what)
        path, colon, name = what.rpartition(":")
        if not colon or not path or not name:
            raise ValueError(f"allowed: ${{{provider}:PATH:{'KEY' if provider == 'file' else 'NAME'}}}")
        return self._property(Path(path), name) if provider == "file" else self._content(Path(path), name)

    def _variable(self, name: str) -> str:
        if _NAME.fullmatch(name) is None or name not in self.environ:
            raise ValueError(f"${{env:{name[:60]}}}: there is no such variable in the environment")
        return self.environ[name]

    def _property(self, path: Path, key: str) -> str:
        where = f"${{file:{path}:{key[:60]}}}"
        try:
            with path.open("rb") as stream:
                content = stream.read(PROPERTIES_BYTES_MAX + 1)
            if len(content) > PROPERTIES_BYTES_MAX:
                raise ValueError(f"{where}: the file has more than {PROPERTIES_BYTES_MAX} bytes")
            found = dict(pairs(content.decode()))
        except OSError as error:
            raise ValueError(f"{where}: the file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{where}: the file is not UTF-8 text") from None
        if key not in found:
            raise ValueError(f"{where}: the file has no such key")
        self.files[path] = None
        return found[key]

    def _content(self, directory: Path, name: str) -> str:
        where = f"${{dir:{directory}:{name[:60]}}}"
        if "/" in name or name in (".", ".."):
            raise ValueError(f"{where}: allowed: the name of a file in the directory")
        try:
            content = read_secret(directory / name)
        except ValueError as wrong:
            raise ValueError(f"{where}: the file {wrong}") from None
        self.files[directory / name] = None
        return content


def readable_by_others(files: Iterable[Path]) -> Iterator[Path]:
    """Those of the files that every user of the machine may read. Files that are not there are passed over."""
    for path in files:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_IROTH:
            yield path
