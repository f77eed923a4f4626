"""The guard of changes over HTTP."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from gateway.http.guard import Guard
from gateway.http.problems import Problem

HERE = Guard(loopback=True, hosts=frozenset({"gate.example"}))
OUTSIDE = Guard(loopback=False, hosts=frozenset({"gate.example"}), token="secret")


def status(guard: Guard, **headers: str) -> int:
    """The status for a request with these headers; 200 if it may pass."""
    try:
        guard.check_write(Headers({name.replace("_", "-"): value for name, value in headers.items()}))
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("host", ["localhost:9094", "127.0.0.1:9094", "[::1]:9094", "LOCALHOST", "gate.example:80"])
def test_our_names(host: str) -> None:
    """A listener on this machine alone is called by its names and needs no token."""
    assert status(HERE, host=host) == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:9094", "localhost.evil.example", "10.1.2.3", "[::1"]
)
def test_names_that_are_not_ours(host: str) -> None:
    """Somebody else's name that points here is refused: a page of that name would be of our own origin."""
    assert status(HERE, host=host) == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("penstock", 200),
        ("gate.ns.svc", 200),
        ("box.local", 200),
        ("10.1.2.3", 200),
        ("gate.example", 200),
        ("local", 200),
        ("evil.example", 403),
        ("evil.example.", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_reading_off_loopback(host: str, expected: int) -> None:
    """Other machines that reach us may read by a name that no stranger can own; on loopback only by ours."""
    headers = Headers({"host": host})
    for guard, wanted in ((OUTSIDE, expected), (HERE, 200 if host == "gate.example" else 403)):
        try:
            guard.check_read(headers)
            found = 200
        except Problem as problem:
            found = problem.status
        assert found == wanted


def test_an_address_off_loopback() -> None:
    """If other machines reach us, any address may be ours; a name must be configured."""
    bearer = "Bearer secret"

    assert status(OUTSIDE, host="10.1.2.3:9094", authorization=bearer) == 200
    assert status(OUTSIDE, host="gate.example", authorization=bearer) == 200
    assert status(OUTSIDE, host="evil.example", authorization=bearer) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:9094", 200),
        ("https://localhost:9094", 200),
        ("http://localhost:9095", 403),
        ("http://evil.example", 403),
        ("file://localhost:9094", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_origins(origin: str, expected: int) -> None:
    """Only a page of our own address may write."""
    assert status(HERE, host="localhost:9094", origin=origin) == expected


def test_fetch_metadata() -> None:
    """A browser that tells no origin tells where the page is from."""
    assert status(HERE, host="localhost", sec_fetch_site="cross-site") == 403
    assert status(HERE, host="localhost", sec_fetch_site="same-origin") == 200


@pytest.mark.parametrize("shown", ["", "secret", "Bearer", "Bearer other", "Basic secret", "Bearer sécret"])
def test_wrong_tokens(shown: str) -> None:
    """A configured token is needed."""
    assert status(OUTSIDE, host="10.1.2.3", authorization=shown) == 401
    assert status(Guard(loopback=True, token="secret"), host="localhost", authorization=shown) == 401


@pytest.mark.parametrize("token", [None, ""])
def test_no_token_off_loopback(token: str | None) -> None:
    """If other machines reach us and there is no token, or an empty one, no request may write."""
    for shown in ("Bearer None", "Bearer ", ""):
        assert status(Guard(loopback=False, token=token), host="10.1.2.3", authorization=shown) == 403
    assert status(Guard(loopback=True, token=token), host="localhost") == 200
