"""The archive of `penstock debug bundle`.

Keeps: no value of a secret is in any member, whichever way it was given; no content of a data file is. Every member has
a bound, and the archive is its user's alone.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import io
import json
import os
import platform
import re
import ssl
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, SecretStr

from gateway import __version__
from gateway.cli import doctor_disk as disk
from gateway.cli.doctor_examination import directories_of, examine
from gateway.cli.refused import Refused
from gateway.config.fields import HIDDEN
from gateway.config.layers import ConfigError
from gateway.config.listing import chosen
from gateway.config.loading import describe
from gateway.config.model import Config
from gateway.data_directory import read_serving
from gateway.exits import ExitCode
from gateway.long_term.key_rotation import credentials_now

LOG_BYTES_MAX: Final = 10 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest answer of a gateway that is kept."""
HTTP_S: Final = 10.0
SECRET_CHARS_MIN: Final = 4
"""Shorter parts of a secret with several lines or quotes are words of every text; a whole secret is always hidden."""
_QUOTED: Final = re.compile(r'"([^"]+)"')
_ASKED: Final = {"metrics.txt": "/metrics", "overview.json": "/api/v1/overview"}


@dataclass(frozen=True, slots=True)
class Made:
    """A finished archive; `size` in bytes."""

    path: Path
    size: int
    members: tuple[str, ...]


def make(config: Config, path: Path | None, log: Path | None) -> Made:
    """Make the archive, in a new file. Raises Refused."""
    root = time.strftime("penstock-debug-%Y%m%dT%H%M%SZ", time.gmtime())
    path = Path(f"{root}.tar.gz") if path is None else path
    hidden = Hidden(config)
    tail = None if log is None else _tail(log)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(f"{path} is there already: name another file with --output", ExitCode.CONFIGURATION) from None
    except OSError as error:
        raise Refused(f"{path} cannot be made: {error.strerror}", ExitCode.CONFIGURATION) from error
    names = []
    try:
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in _members(config, tail):
                _add(archive, f"{root}/{name}", hidden.out_of(text).encode(errors="backslashreplace"))
                names.append(name)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Refused(f"{path} cannot be written: {error.strerror}", ExitCode.STORAGE) from error
        raise
    return Made(path, path.stat().st_size, tuple(names))


def _members(config: Config, tail: str | None) -> Iterator[tuple[str, str]]:
    yield "config.json", _json(chosen(describe(config), "", changed=True))
    yield "versions.json", _json(_versions())
    yield "files.json", _json(_files(config))
    yield from _asked(config)
    yield "doctor.json", _json([one.as_json() for one in examine(config)])
    if tail is not None:
        yield "log.txt", tail


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(content))


class Hidden:
    """The secrets of a configuration, and texts without them."""

    def __init__(self, config: Config) -> None:
        found = {text for secret in _secrets(config) for text in _forms(secret)}
        longest_first = sorted(found, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if found else None

    def __repr__(self) -> str:
        return "<Hidden>"

    def out_of(self, text: str) -> str:
        """The text with a mark for each secret."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def _secrets(config: Config) -> Iterator[str]:
    """Every secret that the configuration holds or names."""
    models: list[BaseModel] = [config, *(config.security_of(name) for name in {one.name for one in config.listeners})]
    for model in models:
        for name in type(model).model_fields:
            if isinstance(value := getattr(model, name), SecretStr):
                yield value.get_secret_value()
    with contextlib.suppress(ConfigError):  # there are none
        credentials = credentials_now(config, os.environ)
        yield from filter(None, (credentials.access_key, credentials.secret_key, credentials.session_token))


def _forms(secret: str) -> Iterator[str]:
    """The secret and its parts, as they may stand in text, JSON or an address."""
    lines = [line.strip() for line in secret.splitlines()] if "\n" in secret else []
    for part in (secret, secret.strip(), *(one for one in (*lines, *_QUOTED.findall(secret)) if _tells(one))):
        if part:
            yield from (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1], quote(part, safe=""))


def _tells(part: str) -> bool:
    return len(part) >= SECRET_CHARS_MIN and not part.startswith("-----")


def _tail(log: Path) -> str:
    """The last bytes of a log file, from a whole line on. Raises Refused."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES_MAX))
            content = file.read(LOG_BYTES_MAX)
    except OSError as error:
        raise Refused(f"--log {log}: cannot be read: {error.strerror}", ExitCode.CONFIGURATION) from error
    if size > LOG_BYTES_MAX:  # half a line may be half a secret
        content = content.partition(b"\n")[2]
    return content.decode(errors="backslashreplace")


def _versions() -> Mapping[str, Any]:
    packages = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()}
    return {
        "penstock": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _files(config: Config) -> list[Mapping[str, Any]]:
    """Names and sizes of data files."""
    return [
        {"file": name, "bytes": size, "bytes_on_disk": blocks, "changed_s": round(changed)}
        for directory in directories_of(config)
        for name, size, blocks, changed in disk.files_below(directory.absolute())
    ]


def _asked(config: Config) -> Iterator[tuple[str, str]]:
    """What the directory's gateway answers; nothing if none runs or it has no HTTP server."""
    directory = config.data_dir.absolute()
    address = read_serving(directory) if disk.locked_by(directory) else None
    if address is None:
        return
    for name, path in _ASKED.items():
        try:
            yield name, _get(config, address, path)
        except (OSError, http.client.HTTPException) as error:
            yield name, f"no answer: {error}"


def _get(config: Config, address: str, path: str) -> str:
    url = urlsplit(f"//{address}")
    if config.http_tls_keystore_location is None:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=HTTP_S)
    else:  # the address is the directory's own, and nothing secret is sent: no authority needs to vouch for it
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=HTTP_S, context=context)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read(ANSWER_BYTES_MAX).decode(errors="backslashreplace")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
