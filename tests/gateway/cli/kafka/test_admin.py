"""`penstock cluster`, `acls`, `credentials`, `quotas`, `profile`, and how a connection is found."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.gateway.cli.kafka.tools import Tools

pytestmark = pytest.mark.slow


def test_cluster(tools: Tools) -> None:
    """The cluster is told with the addresses that clients get, and is healthy if those answer."""
    told = tools.tell("cluster", "info")
    (broker,) = told["brokers"]

    assert f"{broker['host']}:{broker['port']}" == tools.address
    assert told["controller"] == broker["id"]
    assert tools.tell("cluster", "health")["healthy"] is True
    assert "healthy: 1 broker" in tools.say("cluster", "health")


def test_nobody_there(tools: Tools) -> None:
    """Without a broker the command ends at once, and says where it looked and why not."""
    refused = tools.refuse("topics", "list", "--bootstrap", "127.0.0.1:1", bootstrap=False)

    assert "no broker answers at 127.0.0.1:1 (Connection refused)" in refused
    assert "--bootstrap" in refused


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--bootstrap", "nowhere:port"), "allowed: HOST[:PORT]"),
        (("--security-protocol", "TLS"), "allowed: PLAINTEXT, SSL"),
        (("--user", "ann"), "needs --user and --password-file"),
        (("--key", "k.pem"), "give --cert as well"),
        (("--user", "ann", "--password-file", "/nonexistent"), "/nonexistent: cannot be read"),
        (("--ca", "/dev/null"), "--ca /dev/null: it has no certificate"),
        (("--ca", "/nonexistent"), "--ca /nonexistent: cannot be read: No such file"),
        (("--profile", "nope"), "no profile 'nope'"),
    ],
)
def test_wrong_connection(tools: Tools, flags: tuple[str, ...], why: str) -> None:
    """Settings of a connection that cannot be right are refused by name."""
    assert why in tools.refuse("topics", "list", *flags, code=2, bootstrap=False)


def test_profiles(tools: Tools, tmp_path: Path) -> None:
    """A profile keeps a connection: flags are stronger, files of secrets are named, the file is its owner's alone."""
    password = tmp_path / "password"
    password.write_text("open-sesame\n")
    tools.say("profile", "create", "here", "--bootstrap", tools.address, bootstrap=False)
    tools.say("profile", "create", "far", "--user", "ann", "--password-file", str(password), bootstrap=False)

    nobody = tools.refuse("topics", "list", "--bootstrap", "127.0.0.1:1", bootstrap=False)
    assert "needs" not in nobody
    assert "profile 'far' is in use" in nobody
    assert [one["current"] for one in tools.tell("profile", "list", bootstrap=False)] == [True, False]
    tools.say("profile", "use", "here", bootstrap=False)
    assert tools.tell("cluster", "health", bootstrap=False)["healthy"] is True
    assert tools.tell("profile", "show", "far", bootstrap=False)["password_file"] == str(password)

    file = tmp_path / "penstock" / "profiles.toml"
    assert "open-sesame" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    far = ("profile", "create", "farther", "--url", "ftp://h")
    assert "allowed: http(s)://HOST[:PORT]" in tools.refuse(*far, code=2, bootstrap=False)
    known = tools.refuse("profile", "create", "farther", "--url", "https://ann:hush@h", code=2, bootstrap=False)
    assert "leave out what is in front of the @" in known
    assert "hush" not in known + file.read_text()
    assert "there is a profile 'here' already" in tools.refuse("profile", "create", "here", code=2, bootstrap=False)
    assert "say --yes" in tools.refuse("profile", "delete", "here", code=2, bootstrap=False)
    tools.say("profile", "delete", "here", "--yes", bootstrap=False)
    assert [one["name"] for one in tools.tell("profile", "list", bootstrap=False)] == ["far"]


@pytest.mark.parametrize(
    ("content", "why"),
    [("current = ", "cannot be read"), ('[profile.p]\npasword = "x"\n', "unknown setting 'pasword'")],
)
def test_damaged_profiles(tools: Tools, tmp_path: Path, content: str, why: str) -> None:
    """A file of profiles that cannot be understood is named, and nothing is done with half of it."""
    (tmp_path / "penstock").mkdir()
    (tmp_path / "penstock" / "profiles.toml").write_text(content)

    done = tools.run("profile", "list", bootstrap=False)

    assert done.returncode != 0
    assert why in done.stderr


def test_rights_and_users(tools: Tools, tmp_path: Path) -> None:
    """What the cluster does not do is refused in its own words; a password is never shown."""
    password = tmp_path / "password"
    password.write_text("open-sesame\n")
    added = tools.run("credentials", "add", "ann", "--new-password-file", str(password))

    assert "open-sesame" not in added.stdout + added.stderr
    assert tools.tell("credentials", "list") == [] or added.returncode == 0
    assert "allowed: any, topic" in tools.refuse("acls", "list", "--resource", "tpoic:t", code=2)
    assert "allowed: any, all" in tools.refuse("acls", "list", "--operation", "raed", code=2)
    assert "allowed: user=NAME" in tools.refuse("quotas", "set", "usr=ann", "--set", "producer_byte_rate=1", code=2)
