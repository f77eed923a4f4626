"""Who asks a gateway's REST API, by flags and profile, and what is never sent."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gateway.cli.client.connection import Connection
from gateway.cli.client.rest import Rest, parts_of
from gateway.cli.refused import Refused

FAR = "http://10.0.0.1:9094"


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current profile with a user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "password").write_text("her:secret\n")
    (tmp_path / "penstock").mkdir()
    (tmp_path / "penstock" / "profiles.toml").write_text(
        f'current = "prod"\n[profile.prod]\nuser = "ann"\npassword_file = "{tmp_path / "password"}"\n'
    )


def proof(url: str, token: str | None = None, **flags: str) -> str | None:
    return Rest(url, Connection(**flags), None, token).authorization()


def basic(user: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:her:secret'.encode()).decode()}"


@pytest.mark.parametrize("url", ["https://far.example", "http://localhost:9094", "http://127.0.0.1:1", "[::1]:9094"])
def test_a_password_goes_where_nobody_listens(url: str) -> None:
    """Over TLS, and to this machine, a user proves who it is: the profile's, or the one of the flags."""
    assert proof(url) == basic("ann")
    assert proof(url, user="bob") == basic("bob")


def test_a_password_goes_nowhere_else() -> None:
    """The profile's user stays away from other machines in the clear; one that is given for them is refused."""
    assert proof(FAR) is None
    with pytest.raises(Refused, match="give https://"):
        proof(FAR, user="ann")


def test_a_profile_says_where(tmp_path: Path) -> None:
    """The address is a flag's, else the profile's, else this machine's: whoever uses a profile asks that gateway."""
    file = tmp_path / "penstock" / "profiles.toml"
    file.write_text(f'{file.read_text()}url = "http://10.0.0.1:9094"\n[profile.bare]\nbootstrap = "h:1"\n')

    assert Rest(None, Connection(), None, None).place == FAR
    assert Rest("https://far.example", Connection(), None, None).place == "https://far.example"
    assert Rest(None, Connection(), "bare", None).place == "http://localhost:9094"
    assert Rest(None, Connection(), None, None).authorization() is None, "the user of the profile stays at home"


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "user:secret@"])
def test_addresses_that_are_none(url: str) -> None:
    """They are refused by name, and nothing before an @ is shown."""
    with pytest.raises(Refused, match="allowed: http") as refused:
        parts_of(url)
    assert "secret" not in str(refused.value)


def test_a_token_is_stronger() -> None:
    """Who gives a token means it, whatever user the profile has."""
    assert proof("https://far.example", token="sesame\n") == "Bearer sesame"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"user": "a:b"}, "colon"),
        ({"password_file": "/nowhere"}, "/nowhere: cannot be read"),
    ],
)
def test_what_cannot_be_a_proof(flags: dict[str, str], says: str) -> None:
    """A fault of the settings is told by the flag or the file that has it."""
    with pytest.raises(Refused, match=says):
        proof("https://far.example", **flags)


@pytest.mark.parametrize("flag", ["ca", "cert"])
def test_files_that_are_no_certificates(flag: str, tmp_path: Path) -> None:
    """Nothing is asked when the files for TLS cannot be used: the message names them."""
    with pytest.raises(Refused, match=f"{tmp_path / 'password'}: cannot be used"):
        Rest("https://127.0.0.1:1", Connection(**{flag: str(tmp_path / "password")}), None, None).call("GET", "/")
