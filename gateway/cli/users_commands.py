"""The work of `penstock users`: changes wait in a file of the data directory, which the next start takes over.

Keeps: a password is read from a file, standard input or a terminal, never from the command line, and is not kept. The
command owns the data directory while it works, so no gateway runs on it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path
from typing import Final

from core.cluster.sqlite_registry import SqliteRegistry
from core.errors import AlreadyLocked
from core.offline import looked_at
from gateway import __version__, logs
from gateway.cli.output import Output
from gateway.cli.refused import Refused
from gateway.cli.refused import run as run_refused
from gateway.config.layers import ConfigError
from gateway.config.loading import Config
from gateway.config.places import STORE_DIRECTORY
from gateway.config.secrets import read_secret
from gateway.data_directory import SCRAM_USERS_FILE, DataDirectory, keep_to_ourselves
from gateway.durable_files import write_atomically
from gateway.exits import ExitCode
from gateway.process.outcome import outcome
from gateway.security.scram import HASHES, NAME_CHARS_MAX, ScramCredential, credential
from gateway.security.scram_users import TABLE, Change, pending_text, read_pending, read_table

PRIVATE: Final = 0o600
STANDARD_INPUT: Final = Path("-")
PASSWORD_BYTES_MAX: Final = 4_096

Known = dict[tuple[str, str], ScramCredential]
"""By user and mechanism."""


def run_add(
    config: Config, name: str, password_file: Path | None, mechanism: str, iterations: int, told: Output
) -> ExitCode:
    """Add a user, or give one another password."""

    def add() -> ExitCode:
        if mechanism not in HASHES:
            raise ConfigError([f"--mechanism {mechanism}: allowed: {', '.join(HASHES)}"])
        _check_name(name)
        made = credential(mechanism, _password(password_file), iterations)
        with _owned(config) as data:
            _change(data, [(name, mechanism, made)])
        _tell(told, {"user": name, "mechanism": mechanism}, f"{name} can log in by {mechanism} from the next start on")
        return ExitCode.CLEAN

    return _run(add)


def run_delete(config: Config, name: str, told: Output, *, yes: bool) -> ExitCode:
    """Delete all credentials of a user."""

    def delete() -> ExitCode:
        with _owned(config) as data:
            mechanisms = [mechanism for user, mechanism in _known(config, data) if user == name]
            if not mechanisms:
                raise ConfigError([f"there is no user {name!r}; `penstock users list` shows them"])
            told.confirm(f"{name} can no longer log in by {', '.join(mechanisms)}", yes=yes)
            _change(data, [(name, mechanism, None) for mechanism in mechanisms])
        gone = f"{name} cannot log in by {', '.join(mechanisms)} from the next start on"
        _tell(told, {"deleted": name, "mechanisms": mechanisms}, gone)
        return ExitCode.CLEAN

    return _run(delete)


def run_list(config: Config, *, as_json: bool) -> ExitCode:
    def show() -> ExitCode:
        with _owned(config) as data:
            known = _known(config, data)
        rows = [
            {"user": user, "mechanism": mechanism, "iterations": one.iterations}
            for (user, mechanism), one in sorted(known.items())
        ]
        if as_json:
            print(json.dumps(rows))
        else:
            for row in rows:
                print(f"{row['user']}  {row['mechanism']}  {row['iterations']} iterations")
        return ExitCode.CLEAN

    return _run(show)


def run_hash(name: str, password_file: Path | None, iterations: int, told: Output) -> ExitCode:
    """Print the line of a file of users."""

    def print_hash() -> ExitCode:
        _check_name(name)
        line = f"{name}:{credential('SCRAM-SHA-256', _password(password_file), iterations).to_text()}"
        _tell(told, {"user": name, "line": line}, line)
        return ExitCode.CLEAN

    return _run(print_hash)


def _run(command: Callable[[], ExitCode]) -> ExitCode:
    """A refusal passes by the log: it is said as every tool says one."""
    logs.setup_of_tool()
    refusals: list[Refused] = []

    def refusable() -> ExitCode:
        try:
            return command()
        except Refused as refused:
            refusals.append(refused)
            return refused.code

    def ended() -> ExitCode:
        code = outcome(refusable)
        if refusals:
            raise refusals[0]
        return code

    code = run_refused(ended)
    logs.flush()
    return code


def _tell(told: Output, value: dict[str, object], line: str) -> None:
    told.result(value) if told.as_json else told.line(line)


@contextmanager
def _owned(config: Config) -> Iterator[DataDirectory]:
    """The data directory, which is made if it is not there."""
    keep_to_ourselves()
    try:
        data = DataDirectory.acquire(config.data_dir, __version__)
    except AlreadyLocked as locked:
        what = "while a gateway runs, `penstock credentials` lists, adds and deletes its users"
        raise Refused(f"{locked.path} is in use by {locked.owner}: {what}", ExitCode.TAKEN) from None
    try:
        yield data
    finally:
        data.release()


def _known(config: Config, data: DataDirectory) -> Known:
    """The users that the next start will have. Raises ConfigError for a broken file."""
    known = asyncio.run(_stored(config, data)) if (data.path / STORE_DIRECTORY).is_dir() else {}
    for user, mechanism, changed in _pending(data):
        if changed is None:
            known.pop((user, mechanism), None)
        else:
            known[user, mechanism] = changed
    return known


async def _stored(config: Config, data: DataDirectory) -> Known:
    if await asyncio.to_thread(data.registry.exists):  # several workers have served the directory
        registry = await SqliteRegistry.open(data.registry)
        try:
            return {(user, found.mechanism): found for user, found in read_table(registry.settings(TABLE))}
        finally:
            await registry.close()
    async with looked_at(data.store, config.store_config()) as containers:
        return {
            (user, found.mechanism): found
            for hosted in containers
            for user, found in read_table(hosted.container.table(TABLE).entries)
        }


def _pending(data: DataDirectory) -> list[Change]:
    try:
        return list(read_pending(data.path / SCRAM_USERS_FILE).values())
    except ValueError as wrong:
        raise ConfigError([str(wrong)]) from wrong


def _change(data: DataDirectory, changes: list[Change]) -> None:
    wanted = {(user, mechanism): (user, mechanism, one) for user, mechanism, one in (*_pending(data), *changes)}
    write_atomically(data.path / SCRAM_USERS_FILE, pending_text(wanted.values()).encode(), PRIVATE)


def _check_name(name: str) -> None:
    if not name or len(name) > NAME_CHARS_MAX or any(unicodedata.category(char)[0] == "C" for char in name):
        raise ConfigError([f"a user's name has 1 to {NAME_CHARS_MAX} characters, none of them a control character"])


def _password(file: Path | None) -> str:
    """Raises ConfigError; no message shows it."""
    if file is None:
        text = getpass("Password: ")
        if text != getpass("Once more: "):
            raise ConfigError(["the two passwords differ"])
    elif file == STANDARD_INPUT:
        text = sys.stdin.readline(PASSWORD_BYTES_MAX).rstrip("\r\n")
    else:
        try:
            text = read_secret(file)
        except ValueError as wrong:
            raise ConfigError([f"--password-file {file}: {wrong}"]) from wrong
    if not text:
        raise ConfigError(["an empty password is none"])
    return text
