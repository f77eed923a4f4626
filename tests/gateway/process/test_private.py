"""Files and arguments that other users of the machine see: none of the data, no secret."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.config.fields import is_secret
from gateway.config.layers import ConfigError
from gateway.config.loading import FIELDS, load
from gateway.config.secrets import IN_FILES_OF_KAFKAS, SECRET_KEYS
from gateway.data_directory import close_to_others
from tests.gateway.cli.test_cli import produce
from tests.gateway.http.calls import call, create_topic, get
from tests.gateway.launching import run, serving

SECRET = "s3cret-of-a-test"
BESIDE = ("etcd.user=ann", "etcd.cert.file=a.pem", "etcd.key.file=a.key")
"""What secrets make no sense without."""
HTTP = ("--http", "127.0.0.1:0")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """Everything that somebody else than its owner may read, write or enter."""
    paths = [directory, *directory.rglob("*")]
    return [f"{stat.S_IMODE(path.stat().st_mode):o} {path}" for path in paths if path.stat().st_mode & 0o077]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_data_is_its_owners(tmp_path: Path) -> None:
    """Whatever the shell's umask: nobody else enters the data directory or reads a file in it."""
    with umask(0o000), serving(tmp_path, *HTTP, "--set", "chunk.age.ms=100") as gateway:
        ready = gateway.ready()
        produce(ready["kafka"][0], "a", "b")
        assert gateway.terminate() == 0
        assert len(list((tmp_path / "data").rglob("*"))) > 10
        assert open_to_others(tmp_path / "data") == []
        assert mode(tmp_path / "ready.json") == 0o666


@pytest.mark.slow
def test_an_older_directory_is_closed(tmp_path: Path) -> None:
    """A data directory of an earlier release, which others may enter, is closed at the next start, with a line."""
    with serving(tmp_path, *HTTP) as gateway:
        gateway.ready()
        assert gateway.terminate() == 0
    (tmp_path / "data").chmod(0o755)
    with serving(tmp_path, *HTTP) as gateway:
        gateway.ready()
        gateway.await_line("the data directory is closed to other users now")
        assert mode(tmp_path / "data") == 0o700


def test_what_is_left_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory in which other things lie, or a sticky one, is not ours to close: a warning names it."""
    for name, bits, neighbour in (("shared", 0o755, "notes.txt"), ("sticky", 0o1777, None)):
        directory = tmp_path / name
        directory.mkdir()
        directory.chmod(bits)
        if neighbour is not None:
            (directory / neighbour).touch()
        caplog.clear()
        close_to_others(directory)
        assert mode(directory) == bits
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    fresh = tmp_path / "fresh"
    fresh.mkdir(mode=0o755)
    close_to_others(fresh)
    assert mode(fresh) == 0o700


def test_every_secret_has_a_file() -> None:
    """Each secret key has a key that names a file."""
    secrets = {key for key, (_, field) in FIELDS.items() if is_secret(field)}
    assert secrets == {*SECRET_KEYS, *IN_FILES_OF_KAFKAS}
    assert {f"{key}.file" for key in SECRET_KEYS} <= FIELDS.keys()
    assert set(IN_FILES_OF_KAFKAS.values()) <= FIELDS.keys()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secrets_from_files(tmp_path: Path, end: str) -> None:
    """A file's text without its line's end is the secret, wherever the file is named."""
    paths = {key: tmp_path / key for key in SECRET_KEYS}
    for key, path in paths.items():
        path.write_text(f"{SECRET} {key}{end}")
    elsewhere = ("http.token", "tier2.access.key")
    toml = tmp_path / "penstock.toml"
    toml.write_text(f'http.token.file = "{paths["http.token"]}"\n')
    config = load(
        toml,
        environ={"PENSTOCK_TIER2_ACCESS_KEY_FILE": str(paths["tier2.access.key"])},
        assignments=[*BESIDE, *(f"{key}.file={paths[key]}" for key in SECRET_KEYS if key not in elsewhere)],
    )

    for key in SECRET_KEYS:
        assert getattr(config, key.replace(".", "_")).get_secret_value() == f"{SECRET} {key}"
        assert SECRET not in config.source_of(key)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (SECRET.encode() + b"\nmore", "more than one line"),
        (b"\xff\xfe" + SECRET.encode(), "not UTF-8"),
        (SECRET.encode() * 10_000, "more than 16384 bytes"),
    ],
)
def test_bad_secret_files(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A file that cannot hold a secret is refused by the key's name, and its content is not shown."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as refused:
        load(environ={}, assignments=[f"http.token.file={path}"])
    assert "http.token.file" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_both_are_refused(tmp_path: Path) -> None:
    """A secret and a file for it contradict one another: neither wins silently."""
    (tmp_path / "token").write_text(SECRET)
    with pytest.raises(ConfigError, match=r"http\.token\.file is set .* allowed: one of them"):
        load(environ={"PENSTOCK_HTTP_TOKEN": SECRET}, assignments=[f"http.token.file={tmp_path / 'token'}"])


@pytest.mark.slow
def test_a_token_in_a_file(tmp_path: Path) -> None:
    """Gateway and commands take the token from a file; on a command line both say that it can be read there."""
    token = tmp_path / "token"
    token.write_text(SECRET + "\n")
    token.chmod(0o600)
    with serving(tmp_path / "a", *HTTP, "--set", f"http.token.file={token}") as gateway:
        ready = gateway.ready()
        http = ready["http"]
        create_topic(ready["kafka"][0], "t", 4)
        assert call(http, "POST", "/api/v1/streams/t/scale", {"split": {"segment": 0}})[0] == 401

        scaled = scale(http, "--token-file", str(token))
        assert (scaled.returncode, scaled.stderr) == (0, "")
        assert len(get(http, "/api/v1/streams/t")["epochs"]) == 2
        warned = scale(http, "--token", "wrong")
        assert "use --token-file" in warned.stderr
        missing = scale(http, "--token-file", str(tmp_path / "nothing"))
        assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
        assert "a secret stands on the command line" not in gateway.err.read_text()
        assert "a file of secrets can be read by every user of this machine" not in gateway.err.read_text()
    token.chmod(0o604)
    with serving(tmp_path / "b", *HTTP, "--set", f"http.token=${{dir:{tmp_path}:token}}") as gateway:
        gateway.ready()
        gateway.await_line("a file of secrets can be read by every user of this machine")
        assert "a secret stands on the command line" not in gateway.err.read_text()
    with serving(tmp_path / "c", *HTTP, "--set", f"http.token={SECRET}") as gateway:
        gateway.ready()
        gateway.await_line("a secret stands on the command line")
        assert SECRET not in gateway.err.read_text() + gateway.out.read_text()


def scale(http: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("streams", "scale", "t", "--split", "0", "--url", f"http://{http}", *arguments)
