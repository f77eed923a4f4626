"""The credentials for the S3 store: a key, its secret, perhaps a session token, and the place that gave them.

The first of these places that has a key wins; key, secret and token always come from one place:

1. `tier2.access.key` and `tier2.secret.key`, wherever these were set: flag, ``PENSTOCK_TIER2_ACCESS_KEY`` and
   ``PENSTOCK_TIER2_SECRET_KEY``, configuration file
2. the file that `tier2.credentials.file` names, section ``[penstock]``, else ``[default]``
3. ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, with ``AWS_SESSION_TOKEN``

Credentials for Penstock alone win over those that the environment gives to every program.

Keeps: no repr and no message shows a secret, nor a key.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config.fields import check_one_line
from gateway.config.layers import ConfigError
from gateway.config.model import Config

SECTIONS: Final = ("penstock", "default")
AWS_NAMES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
REGION_NAMES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One identity."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    source: str


def find_credentials(config: Config, environ: Mapping[str, str]) -> Credentials:
    """The credentials of the first place that has any. Raises ConfigError if there are none, or half of a pair."""
    if config.tier2_access_key is not None and config.tier2_secret_key is not None:
        return Credentials(
            access_key=config.tier2_access_key.get_secret_value(),
            secret_key=config.tier2_secret_key.get_secret_value(),
            source="tier2.access.key and tier2.secret.key",
        )
    if config.tier2_credentials_file is not None:
        return _from_file(config.tier2_credentials_file)
    access, secret, token = (_text(environ, name) for name in AWS_NAMES)
    if access and secret:
        return Credentials(
            access_key=access, secret_key=secret, session_token=token, source="environment AWS_ACCESS_KEY_ID"
        )
    if access or secret:
        there, missing = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
        if secret:
            there, missing = missing, there
        raise ConfigError([f"environment {there} is set and {missing} is not: they belong together"])
    raise ConfigError(
        [
            f"tier2 = {config.tier2}: there are no credentials: set PENSTOCK_TIER2_ACCESS_KEY and "
            "PENSTOCK_TIER2_SECRET_KEY, or tier2.credentials.file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ]
    )


def find_region(config: Config, environ: Mapping[str, str]) -> str | None:
    """The configured region, else the environment's; None: ask the store."""
    named = (_text(environ, name) for name in REGION_NAMES)
    return config.tier2_region or next((region for region in named if region), None)


def _text(values: Mapping[str, str], name: str, where: str = "environment ") -> str | None:
    """The value, trimmed; None if there is none. Raises ConfigError, which gives its name and never quotes it."""
    text = values.get(name, "").strip()
    try:
        check_one_line(text)
    except ValueError as error:
        raise ConfigError([f"{where}{name}: {error}"]) from None
    if not text.isascii():
        raise ConfigError([f"{where}{name}: it holds characters that no header of a request can carry"])
    return text or None


def _from_file(path: Path) -> Credentials:
    # A parser's own message quotes the line that it does not understand: never pass it on.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError([f"tier2.credentials.file {path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"tier2.credentials.file {path}: is not UTF-8 text"]) from None
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise ConfigError([f"tier2.credentials.file {path}: is not a file of sections and keys{where}"]) from None
    section = next((name for name in SECTIONS if parser.has_section(name)), None)
    if section is None:
        raise ConfigError([f"tier2.credentials.file {path}: has neither section [penstock] nor [default]"])
    values = parser[section]
    where = f"tier2.credentials.file {path}: section [{section}]: "
    access, secret, token = (_text(values, name.lower(), where) for name in AWS_NAMES)
    if not access or not secret:
        missing = "aws_secret_access_key" if access else "aws_access_key_id"
        raise ConfigError([f"tier2.credentials.file {path}: section [{section}] has no {missing}"])
    return Credentials(
        access_key=access,
        secret_key=secret,
        session_token=token,
        source=f"tier2.credentials.file {path}",
    )
