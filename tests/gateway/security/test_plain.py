"""PLAIN: users in Kafka's form and in a file of hashes; one identity for one proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.layers import ConfigError
from gateway.security.exchange import Done, Refused
from gateway.security.plain import PlainExchange, PlainUsers, parse_users, users_of_jaas
from gateway.security.scram import credential

MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"


@pytest.mark.parametrize(
    ("text", "users"),
    [
        (f'{MODULE} user_alice="a-secret";', {"alice": "a-secret"}),
        (
            f'{MODULE}\n  username="admin"\n  password="x"\n  user_admin="x"\n  user_b="y z";\n',
            {"admin": "x", "b": "y z"},
        ),
        ('PlainLoginModule required user_a="quo\\"te";', {"a": 'quo"te'}),
        (f"{MODULE} user_a=bare;", {"a": "bare"}),
        (f"{MODULE};", {}),
    ],
)
def test_kafkas_form(text: str, users: dict[str, str]) -> None:
    """`sasl.jaas.config`: the options that begin with `user_`."""
    assert users_of_jaas(text) == users


@pytest.mark.parametrize(
    "text",
    [
        "",
        f'{MODULE} user_a="s3cr3t"',
        f'{MODULE} user_a="s3cr3t" nonsense;',
        'com.sun.security.auth.module.JndiLoginModule required user.provider.url="ldap://s3cr3t";',
        f'{MODULE} user_a="s3cr3t"; {MODULE} user_b="s3cr3t";',
        'PlainLoginModule sufficient user_a="s3cr3t";',
    ],
)
def test_texts_that_are_refused(text: str) -> None:
    """Another module (CVE-2023-25194) or an unfinished text ends the start; the message shows no password."""
    with pytest.raises(ConfigError) as refused:
        PlainUsers("L", text, None)
    assert "s3cr3t" not in str(refused.value)


class TestExchange:
    @pytest.fixture
    def users(self, tmp_path: Path) -> PlainUsers:
        file = tmp_path / "users"
        file.write_text(f"# users\n\ncarol:{credential('SCRAM-SHA-256', 'c-secret').to_text()}\n")
        return PlainUsers("L", f'{MODULE} user_alice="a-secret" user_ü="ü";', file)

    @pytest.mark.parametrize(
        ("message", "user"),
        [
            ("\0alice\0a-secret", "alice"),
            ("alice\0alice\0a-secret", "alice"),
            ("\0ü\0ü", "ü"),
            ("\0carol\0c-secret", "carol"),
        ],
    )
    def test_who_gets_in(self, users: PlainUsers, message: str, user: str) -> None:
        """By a password of either source."""
        assert PlainExchange(users).step(message.encode(), 0) == Done(b"", user)

    @pytest.mark.parametrize(
        "message",
        [
            b"\0alice\0wrong",
            b"\0alice\0",
            b"\0\0a-secret",
            b"\0bob\0a-secret",
            b"\0carol\0a-secret",
            b"carol\0alice\0a-secret",
            b"alice\0a-secret",
            b"\0alice\0a-secret\0",
            b"\0alice\0a-secret\0more",
            b"\0alice\0\xff",
            b"\0alice\0" + b"x" * 5_000,
            b"",
        ],
    )
    def test_who_does_not(self, users: PlainUsers, message: bytes) -> None:
        """A wrong password or user, another identity than the proved one, and what is no message of PLAIN."""
        with pytest.raises(Refused):
            PlainExchange(users).step(message, 0)

    def test_a_changed_file(self, users: PlainUsers, tmp_path: Path) -> None:
        """It counts for the next login; a broken one does not, and the former goes on."""
        file = tmp_path / "users"
        file.write_text("carol:nonsense")
        assert not users.renew()
        assert users.check("carol", "c-secret")
        file.write_text(f"dora:{credential('SCRAM-SHA-512', 'd-secret').to_text()}\n")
        assert users.renew()
        assert not users.renew()
        assert users.check("dora", "d-secret")
        assert not users.check("carol", "c-secret")


def test_lines_that_are_refused() -> None:
    """By number, without the line."""
    with pytest.raises(ValueError, match="line 2 is not NAME") as refused:
        parse_users("# fine\nsecret-stuff")
    assert "secret-stuff" not in str(refused.value)
