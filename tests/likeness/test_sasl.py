"""Who proves what, in which order: Penstock answers by SASL as Kafka does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.gateway.forking import serving
from tests.gateway.security.harness import WITH_RIGHTS
from tests.likeness.asking import CLOSED
from tests.likeness.sasl import ANSWERS, GOES_ON, PLAIN, SETTINGS, SHA_256, SHA_512, make_users, played
from tests.likeness.tokens import SETTINGS as TOKENS
from tests.likeness.tokens import USERS

pytestmark = pytest.mark.slow

RECORDED: Final = json.loads(ANSWERS.read_text())
SHAKEN: Final = {"error_code": 0, "mechanisms": [PLAIN, SHA_256, SHA_512]}
UNKNOWN: Final = {"error_code": 33, "mechanisms": [PLAIN, SHA_256, SHA_512]}
MORE: Final = {"error_code": 0, "has_words": False, "has_token": True, "lifetime_ms": 0}
PROVED: Final = {"error_code": 0, "has_words": False, "has_token": False, "lifetime_ms": 60_000}
REFUSED: Final = {"error_code": 58, "has_words": True, "has_token": False, "lifetime_ms": 0}
VERSIONS: Final = {"error_code": 0}
DIFFERENT: Final[dict[str, Any]] = {
    # Kafka tells by its first answer who exists.
    "an unknown user by SCRAM": [SHAKEN, MORE, REFUSED, CLOSED],
    "a user of another mechanism": [SHAKEN, MORE, REFUSED, CLOSED],
    "no token by that name": [SHAKEN, MORE, REFUSED, CLOSED],
    "no token, in another case": [SHAKEN, MORE, REFUSED, CLOSED],
    # RFC 5802: a client that could bind the channel, and sees that the server cannot, says so and goes on.
    "channel binding that could be": [SHAKEN, MORE, GOES_ON],
    # The same: what must be understood and is not ends the exchange.
    "an extension that must be understood": [SHAKEN, REFUSED, CLOSED],
    # Kafka runs into an exception, and says nothing.
    "a proof that is short": [SHAKEN, MORE, REFUSED, CLOSED],
    # Kafka closes at the second question; here all have the same time for their proof, whatever they ask.
    "versions are told before": [VERSIONS, VERSIONS, GOES_ON],
    "versions are told twice, then alice comes": [VERSIONS, VERSIONS, SHAKEN, PROVED, VERSIONS, GOES_ON],
    # What may not come is not answered: Kafka says ILLEGAL_SASL_STATE, then closes.
    "versions after the handshake": [SHAKEN, CLOSED, CLOSED],
    "a request after the handshake": [SHAKEN, CLOSED, CLOSED],
    "two handshakes": [SHAKEN, CLOSED, CLOSED],
    "a request between handshake and token": [SHAKEN, PROVED, "waits", SHAKEN, CLOSED, CLOSED],
    "versions between handshake and token": [SHAKEN, PROVED, "waits", SHAKEN, CLOSED, CLOSED],
    # Kafka closes without an answer: here the client hears which mechanisms there are.
    "again by another mechanism": [SHAKEN, PROVED, "waits", UNKNOWN, CLOSED, CLOSED],
    "again by a mechanism that is not there": [SHAKEN, PROVED, "waits", UNKNOWN, CLOSED],
}
"""What Penstock answers instead, each with its reason."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Penstock's answers, by scene."""
    users = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
    settings = (
        *WITH_RIGHTS,
        f"sasl.enabled.mechanisms={PLAIN},{SHA_256},{SHA_512}",
        f"sasl.jaas.config=PlainLoginModule required {users};",
        *(f"{key}={value}" for key, value in (SETTINGS | TOKENS).items()),
    )
    sets = [part for setting in settings for part in ("--set", setting)]
    with serving(tmp_path_factory.mktemp("gateway"), "--listen", "SASL_PLAINTEXT://127.0.0.1:0", *sets) as gateway:
        (address,) = gateway.ready()["kafka"]
        make_users(address)
        yield dict(played(address))


@pytest.mark.parametrize("scene", RECORDED)
def test_as_kafka(ours: dict[str, Any], scene: str) -> None:
    """Each scene goes as with Kafka."""
    assert ours[scene] == DIFFERENT.get(scene, RECORDED[scene])


def test_all_recorded(ours: dict[str, Any]) -> None:
    """Every scene has been played with Kafka, and nothing else was recorded."""
    assert list(RECORDED) == list(ours)


@pytest.mark.parametrize("scene", DIFFERENT)
def test_differences_are_some(scene: str) -> None:
    """What is listed as different is."""
    assert DIFFERENT[scene] != RECORDED[scene]
