"""`penstock users`: made, listed and deleted while no gateway runs; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.data_directory import SCRAM_USERS_FILE
from gateway.security.plain import parse_users
from tests.gateway.forking import run, serving

pytestmark = pytest.mark.slow


def users(data: Path) -> list[tuple[str, str, int]]:
    done = run("users", "list", "--json", "--data-dir", str(data))
    assert done.returncode == 0, done.stderr
    return [(row["user"], row["mechanism"], row["iterations"]) for row in json.loads(done.stdout)]


def test_life_of_a_user(tmp_path: Path) -> None:
    """Added before the first start, there after it, deleted, and not there any more."""
    data, password = tmp_path / "data", tmp_path / "password"
    password.write_text("s3cr3t\n")
    for user, mechanism in (("alice", "scram-sha-256"), ("alice", "SCRAM-SHA-512"), ("b:,=c", "SCRAM-SHA-512")):
        done = run(
            *("users", "add", user, "--password-file", str(password), "--mechanism", mechanism, "--data-dir", str(data))
        )
        assert done.returncode == 0, done.stderr
    known = [("alice", "SCRAM-SHA-256", 4096), ("alice", "SCRAM-SHA-512", 4096), ("b:,=c", "SCRAM-SHA-512", 4096)]
    assert users(data) == known
    pending = data / SCRAM_USERS_FILE
    assert pending.stat().st_mode & 0o077 == 0
    assert "s3cr3t" not in pending.read_text()
    with serving(tmp_path) as gateway:
        gateway.ready()
        assert not pending.exists()
        assert gateway.terminate() == 0
    assert users(data) == known
    unasked = run("users", "delete", "alice", "--data-dir", str(data))
    assert (unasked.returncode, users(data)) == (2, known)
    assert unasked.stderr.endswith("say --yes where there is no terminal to ask at\n")
    assert unasked.stderr.startswith("penstock: alice can no longer log in by SCRAM-SHA-256, SCRAM-SHA-512: ")
    assert run("users", "delete", "alice", "--yes", "--data-dir", str(data)).returncode == 0
    assert users(data) == known[2:]
    with serving(tmp_path) as gateway:
        gateway.ready()
        beside = run("users", "list", "--data-dir", str(data))
        assert beside.returncode == 3
        assert "while a gateway runs, `penstock credentials` lists" in beside.stderr
        assert gateway.terminate() == 0
    assert users(data) == known[2:]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "a", "--mechanism", "GSSAPI"), "allowed: SCRAM-SHA-256, SCRAM-SHA-512"),
        (("add", ""), "1 to 1024 characters"),
        (("add", "a\nb"), "none of them a control character"),
        (("delete", "nobody"), "there is no user 'nobody'"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, with what is allowed."""
    password = tmp_path / "password"
    password.write_text("x")
    more = ("--password-file", str(password)) if arguments[0] == "add" else ()
    done = run("users", *arguments, *more, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


def test_a_broken_file_ends_the_start(tmp_path: Path) -> None:
    """Exit code 2, with file and line, and without the line."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / SCRAM_USERS_FILE).write_text("alice:s3cr3t\n")
    with serving(tmp_path) as gateway:
        assert gateway.end() == 2
        assert "scram-users, line 1" in gateway.err.read_text()
        assert "s3cr3t" not in gateway.err.read_text()


def test_a_line_for_plain(tmp_path: Path) -> None:
    """`penstock users hash` prints what sasl.plain.users.file reads."""
    password = tmp_path / "password"
    password.write_text("s3cr3t")
    done = run("users", "hash", "alice", "--password-file", str(password))
    assert parse_users(done.stdout)["alice"].proves("s3cr3t")
