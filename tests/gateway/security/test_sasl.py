"""One connection's SASL, as a state machine: the cases of Kafka's SaslAuthenticatorTest, and random histories."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.security.exchange import Done, More, Refused, Step
from gateway.security.principal import Principal
from gateway.security.sasl import (
    API_VERSIONS,
    REAUTHENTICATION_MS_MIN,
    SASL_AUTHENTICATE,
    SASL_HANDSHAKE,
    Accepted,
    Challenge,
    Denied,
    Handshake,
    SaslSession,
    State,
)

PRODUCE, METADATA = 0, 3
NOW = 1_000_000


class Echo:
    """A mechanism of the test's own: `more` goes on, `no` is refused, the rest is the user, perhaps with an end."""

    def is_slow(self, token: bytes) -> bool:
        return False

    def step(self, token: bytes, now_ms: int) -> Step:
        if token == b"more":
            return More(b"go on")
        if token == b"no":
            raise Refused("a wrong password", "somebody")
        user, _, ends = token.decode().partition("@")
        return Done(b"in", user, int(ends) if ends else None)


def session(lifetime_ms: int = 0) -> SaslSession:
    return SaslSession({"ECHO": Echo, "OTHER": Echo}, lifetime_ms)


def ready(user: str = "alice", lifetime_ms: int = 0) -> SaslSession:
    made = session(lifetime_ms)
    assert made.handshake(1, "ECHO", NOW) is Handshake.BEGUN
    assert isinstance(made.authenticate(user.encode(), NOW), Accepted)
    return made


class TestBefore:
    @pytest.mark.parametrize("key", [PRODUCE, METADATA, SASL_AUTHENTICATE, 50, 99])
    def test_other_requests_are_refused(self, key: int) -> None:
        """testUnauthenticatedApiVersionsRequest's neighbours: nothing but ApiVersions and SaslHandshake comes first."""
        assert session().refusal(key, NOW)

    @pytest.mark.parametrize("key", [API_VERSIONS, SASL_HANDSHAKE])
    def test_two_requests_are_admitted(self, key: int) -> None:
        """In any number and order."""
        made = session()
        assert made.refusal(key, NOW) is None
        assert made.refusal(key, NOW) is None

    def test_an_unknown_mechanism(self) -> None:
        """testInvalidMechanism: refused, and the connection is over."""
        made = session()
        assert made.handshake(1, "GSSAPI", NOW) is Handshake.UNSUPPORTED
        assert made.mechanisms == ["ECHO", "OTHER"]
        assert made.handshake(1, "ECHO", NOW) is Handshake.ILLEGAL

    def test_after_the_handshake(self) -> None:
        """Only tokens: no second handshake, no other request (testInvalidApiVersionsRequestSequence)."""
        made = session()
        made.handshake(1, "ECHO", NOW)
        assert made.refusal(SASL_AUTHENTICATE, NOW) is None
        assert made.refusal(API_VERSIONS, NOW)
        assert made.refusal(SASL_HANDSHAKE, NOW)
        assert made.refusal(METADATA, NOW)
        assert made.handshake(1, "ECHO", NOW) is Handshake.ILLEGAL

    def test_bare_tokens_follow_version_0(self) -> None:
        """KIP-43: after SaslHandshake v0 the next frames are tokens; after v1 they are requests."""
        for version, bare in ((0, True), (1, False)):
            made = session()
            made.handshake(version, "ECHO", NOW)
            assert made.takes_bare_tokens is bare

    def test_an_exchange_of_several_steps(self) -> None:
        """Each answer goes back to the client."""
        made = session()
        made.handshake(1, "ECHO", NOW)
        assert made.authenticate(b"more", NOW) == Challenge(b"go on")
        assert made.authenticate(b"alice", NOW) == Accepted(b"in", Principal("User", "alice"), 0)
        assert made.refusal(PRODUCE, NOW) is None

    def test_a_failure_tells_the_client_nothing(self) -> None:
        """The reason is for the log; the state is over."""
        made = session()
        made.handshake(1, "ECHO", NOW)
        denied = made.authenticate(b"no", NOW)
        assert isinstance(denied, Denied)
        assert "password" not in denied.message
        assert "somebody" not in denied.message
        assert made.state is State.CLOSED
        assert made.refusal(PRODUCE, NOW)
        assert made.refusal(SASL_AUTHENTICATE, NOW)


class TestAgain:
    """KIP-368."""

    def test_the_same_user_and_mechanism(self) -> None:
        """In place: meanwhile other requests are refused."""
        made = ready()
        later = NOW + REAUTHENTICATION_MS_MIN
        assert made.handshake(1, "ECHO", later) is Handshake.BEGUN
        assert made.refusal(PRODUCE, later)
        assert isinstance(made.authenticate(b"alice", later), Accepted)
        assert made.refusal(PRODUCE, later) is None

    def test_another_user(self) -> None:
        """testCannotReauthenticateWithDifferentPrincipal."""
        made = ready()
        made.handshake(1, "ECHO", NOW + REAUTHENTICATION_MS_MIN)
        denied = made.authenticate(b"bob", NOW + REAUTHENTICATION_MS_MIN)
        assert isinstance(denied, Denied)
        assert "re-authentication" in denied.message
        assert str(made.principal) == "User:alice"

    def test_another_mechanism(self) -> None:
        """testCannotReauthenticateWithDifferentMechanism."""
        assert ready().handshake(1, "OTHER", NOW + REAUTHENTICATION_MS_MIN) is Handshake.UNSUPPORTED

    def test_too_soon(self) -> None:
        """testCannotReauthenticateAgainFasterThanOneSecond: the first time is free, the second is answered, and the
        session goes on."""
        made = ready()
        assert made.handshake(1, "ECHO", NOW) is Handshake.BEGUN
        assert isinstance(made.authenticate(b"alice", NOW), Accepted)
        assert made.handshake(1, "ECHO", NOW + 999) is Handshake.ILLEGAL
        assert made.refusal(PRODUCE, NOW + 999) is None
        assert made.handshake(1, "ECHO", NOW + 1_000) is Handshake.BEGUN

    @pytest.mark.parametrize(
        ("lifetime_ms", "user", "told_ms"),
        [
            (0, "alice", 0),
            (5_000, "alice", 5_000),
            (0, f"alice@{NOW + 700}", 700),
            (5_000, f"alice@{NOW + 700}", 700),
            (500, f"alice@{NOW + 700}", 500),
        ],
    )
    def test_lifetimes(self, lifetime_ms: int, user: str, told_ms: int) -> None:
        """The client is told the shorter of `connections.max.reauth.ms` and what its token has left; after it only a
        new authentication is admitted."""
        made = session(lifetime_ms)
        made.handshake(1, "ECHO", NOW)
        accepted = made.authenticate(user.encode(), NOW)
        assert isinstance(accepted, Accepted)
        assert accepted.lifetime_ms == told_ms
        assert made.has_an_end is bool(told_ms)
        assert made.refusal(PRODUCE, NOW + told_ms - 1) is None
        assert bool(made.refusal(PRODUCE, NOW + told_ms)) is bool(told_ms)
        assert made.refusal(SASL_HANDSHAKE, NOW + told_ms) is None

    def test_a_token_that_has_ended(self) -> None:
        """testLateTokens: what ended before it was shown is refused."""
        made = session()
        made.handshake(1, "ECHO", NOW)
        assert isinstance(made.authenticate(f"alice@{NOW}".encode(), NOW), Denied)


class Histories(RuleBasedStateMachine):
    """Any order of handshakes, tokens and requests."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.session = session(lifetime_ms=3_000)
        self.user: Principal | None = None
        self.proved_at: int | None = None

    @rule(mechanism=st.sampled_from(["ECHO", "OTHER", "NONE"]), version=st.sampled_from([0, 1]))
    def handshake(self, mechanism: str, version: int) -> None:
        if self.session.refusal(SASL_HANDSHAKE, self.now) is None:
            self.session.handshake(version, mechanism, self.now)

    @precondition(lambda self: self.session.state is State.TOKEN)
    @rule(token=st.sampled_from([b"more", b"no", b"alice", b"bob"]))
    def token(self, token: bytes) -> None:
        outcome = self.session.authenticate(token, self.now)
        if isinstance(outcome, Accepted):
            assert self.user in (None, outcome.principal)
            self.user, self.proved_at = outcome.principal, self.now

    @rule(ms=st.integers(0, 4_000))
    def wait(self, ms: int) -> None:
        self.now += ms

    @invariant()
    def requests_need_a_proof_that_has_not_ended(self) -> None:
        if self.session.refusal(PRODUCE, self.now) is None:
            assert self.proved_at is not None
            assert self.now < self.proved_at + 3_000
            assert self.session.state is State.READY

    @invariant()
    def the_user_stays(self) -> None:
        assert self.session.principal == self.user


TestHistories = Histories.TestCase
