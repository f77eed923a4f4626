"""SCRAM: the RFC's own example, every right password, no wrong one, and nothing that tells who exists."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.security.exchange import Done, More, Refused
from gateway.security.scram import (
    ITERATIONS_MAX,
    NAME_CHARS_MAX,
    NONCE_CHARS_MAX,
    ScramCredential,
    ScramExchange,
    credential,
    credential_of_salted,
    salt_password,
    unknown_credential,
)
from tests.gateway.security.scram_client import ScramClient

SHA_256, SHA_512 = "SCRAM-SHA-256", "SCRAM-SHA-512"
MECHANISMS = [SHA_256, SHA_512]
SECRET = b"s" * 32
USERS = {(mechanism, name): credential(mechanism, "pencil") for mechanism in MECHANISMS for name in ("alice", "b,=c")}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


def no_tokens(token_id: str) -> None:
    """There are no delegation tokens."""


def exchange(mechanism: str) -> ScramExchange:
    def find(user: str) -> tuple[ScramCredential, bool]:
        known = USERS.get((mechanism, user))
        return (known, True) if known else (unknown_credential(mechanism, user, SECRET, 4096), False)

    return ScramExchange(mechanism, find, no_tokens)


def begun(server: ScramExchange, client: ScramClient) -> bytes:
    step = server.step(client.first(), 0)
    assert isinstance(step, More)
    return step.token


def nonce_of(challenge: bytes) -> str:
    return challenge.decode().split(",")[0].removeprefix("r=")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("user", ["alice", "b,=c"])
def test_a_right_password(mechanism: str, user: str) -> None:
    """The client is in, and the server proves that it knows the user."""
    server, client = exchange(mechanism), ScramClient(mechanism, user, "pencil")
    done = server.step(client.final(begun(server, client)), 0)
    assert isinstance(done, Done)
    assert done.user == user
    assert client.accepts(done.token)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    ("user", "password"), [("alice", "Pencil"), ("alice", "x"), ("bob", "pencil"), ("ALICE", "pencil")]
)
def test_a_wrong_password_or_user(mechanism: str, user: str, password: str) -> None:
    """Refused at the end of the exchange, after a challenge of the same form."""
    server, client = exchange(mechanism), ScramClient(mechanism, user, password)
    with pytest.raises(Refused):
        server.step(client.final(begun(server, client)), 0)


def test_rfc_7677() -> None:
    """The example of RFC 7677, section 3: the same keys from the same password and salt."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    made = credential_of_salted(SHA_256, salt, salt_password(SHA_256, "pencil", salt, 4096), 4096)
    assert base64.b64encode(made.stored_key) == b"WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    assert base64.b64encode(made.server_key) == b"wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(MECHANISMS), TEXTS, TEXTS, TEXTS)
def test_only_the_right_password_proves(mechanism: str, user: str, password: str, other: str) -> None:
    """Whatever characters are in names and passwords."""
    made = credential(mechanism, password)
    server = ScramExchange(mechanism, lambda name: (made, name == user), no_tokens)
    client = ScramClient(mechanism, user, other)
    final = client.final(begun(server, client))
    if other == password:
        assert isinstance(server.step(final, 0), Done)
    else:
        with pytest.raises(Refused):
            server.step(final, 0)
    assert made.proves(other) == (other == password)
    assert ScramCredential.from_text(made.to_text()) == made
    assert password not in repr(made) or len(password) < 4


class TestForgeries:
    """Kinds of CVE-2024-56128: what was proved for one exchange counts for no other."""

    def test_a_replayed_proof(self) -> None:
        """A recorded final message fails in the next exchange, although the client's nonce is the same."""
        first, second, client = exchange(SHA_256), exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil")
        recorded = client.final(begun(first, client))
        assert isinstance(first.step(recorded, 0), Done)
        begun(second, client)
        with pytest.raises(Refused, match="nonce"):
            second.step(recorded, 0)

    def test_the_same_proof_twice_in_one_exchange(self) -> None:
        """A finished exchange takes nothing more."""
        server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil")
        final = client.final(begun(server, client))
        server.step(final, 0)
        with pytest.raises(Refused, match="nonce"):
            server.step(final, 0)

    def test_a_nonce_of_the_clients_own(self) -> None:
        """A correct proof over another nonce is refused."""
        for nonce in ("other", "x" * 40, "{own}", "x{all}", "{own}{own}{all}", "{all}{own}", "{own}{all}x"):
            server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil")
            challenge = begun(server, client)
            with pytest.raises(Refused, match="nonce"):
                server.step(client.final(challenge, nonce=nonce.format(own=client.nonce, all=nonce_of(challenge))), 0)

    def test_librdkafka_before_2_6_1(self) -> None:
        """It puts its own part in front of the nonce once more: a proof over that counts, once and for its exchange."""
        server, later = exchange(SHA_256), exchange(SHA_256)
        client = ScramClient(SHA_256, "alice", "pencil")
        challenge = begun(server, client)
        final = client.final(challenge, nonce=client.nonce + nonce_of(challenge))

        done = server.step(final, 0)

        assert isinstance(done, Done)
        assert client.accepts(done.token)
        begun(later, client)
        for finished_or_other in (server, later):
            with pytest.raises(Refused, match="nonce"):
                finished_or_other.step(final, 0)

    def test_another_binding(self) -> None:
        """The final message must repeat the header of the first (a downgrade otherwise)."""
        server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil", header="y,,")
        with pytest.raises(Refused, match="channel binding"):
            server.step(client.final(begun(server, client), header="n,,"), 0)

    @pytest.mark.parametrize("header", ["n,a=bob,", "y,a=bob,"])
    def test_another_identity(self, header: str) -> None:
        """CVE-2017-12610: an authzid that is not the user."""
        with pytest.raises(Refused, match="another than it proves"):
            exchange(SHA_256).step(ScramClient(SHA_256, "alice", "pencil", header).first(), 0)

    def test_the_same_identity(self) -> None:
        """An authzid that is the user is none."""
        server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil", "n,a=alice,")
        assert isinstance(server.step(client.final(begun(server, client)), 0), Done)

    def test_a_token_that_is_none(self) -> None:
        """`tokenauth=true` asks for a delegation token: a user's password does not do for it."""
        server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil", extensions=",tokenauth=true")
        with pytest.raises(Refused):
            server.step(client.final(begun(server, client)), 0)

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\xff",
            b"n,,",
            b"n,,n=,r=abc",
            b"n,,n=a",
            b"n,,n=a,r=",
            b"n,,n=a=x,r=abc",
            b"n,,r=abc,n=a",
            b"p=tls-unique,,n=a,r=abc",
            b"n,,m=ext,n=a,r=abc",
            b"n,,n=" + b"a" * (NAME_CHARS_MAX + 1) + b",r=abc",
            b"n,,n=a,r=" + b"a" * (NONCE_CHARS_MAX + 1),
            b"n,,n=a,r=a\x01b",
        ],
    )
    def test_first_messages_that_are_none(self, message: bytes) -> None:
        """Refused without a look at any user."""
        with pytest.raises(Refused):
            ScramExchange(SHA_256, lambda user: pytest.fail(f"looked {user!r} up"), no_tokens).step(message, 0)

    @pytest.mark.parametrize("proof", [b"", b"p=", b",p=!!!!", b",p=AAAA", b",p=" + b"A" * 400_000])
    def test_proofs_that_are_none(self, proof: bytes) -> None:
        """Refused whatever their form."""
        server, client = exchange(SHA_256), ScramClient(SHA_256, "alice", "pencil")
        final = client.final(begun(server, client))
        with pytest.raises(Refused):
            server.step(final[: final.index(b",p=")] + proof, 0)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, message: bytes) -> None:
        """No message ends in anything but a step or a refusal."""
        server = exchange(SHA_512)
        for _ in range(2):
            try:
                server.step(message, 0)
            except Refused:
                return


class TestStrangers:
    def test_who_does_not_exist_has_a_salt_that_stays(self) -> None:
        """It has the form of a real one, differs by name, and is the same at every try."""
        salts = {user: unknown_credential(SHA_512, user, SECRET, 4096).salt for user in ("x", "y", "z")}
        assert len(set(salts.values())) == 3
        assert salts == {user: unknown_credential(SHA_512, user, SECRET, 4096).salt for user in salts}
        real = credential(SHA_512, "p").salt
        for salt in salts.values():
            assert abs(len(salt) - len(real)) <= 3
            assert salt.isalnum()

    def test_another_installation_has_other_salts(self) -> None:
        """Who does not exist cannot be told by comparing two."""
        assert (
            unknown_credential(SHA_256, "x", b"1" * 32, 4096).salt
            != unknown_credential(SHA_256, "x", SECRET, 4096).salt
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$0:AAAA$" + ":".join(["A" * 43 + "="] * 2),
        f"SCRAM-SHA-256${ITERATIONS_MAX + 1}:AAAA$" + ":".join(["A" * 43 + "="] * 2),
        "SCRAM-SHA-256$4096:A===A$AAAA:AAAA",
    ],
)
def test_texts_that_are_no_credential(text: str) -> None:
    """The message does not show the text."""
    with pytest.raises(ValueError, match=r"it is not|its salt|its keys") as refused:
        ScramCredential.from_text(text)
    assert "AAAA" not in str(refused.value)
