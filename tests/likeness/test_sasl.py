"""Who proves what, in which order: Penstock answers by SASL as Kafka does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.gateway.launching import serving
from tests.gateway.security.harness import WITH_RIGHTS
from tests.likeness.sasl import ANSWERS, PLAIN, SETTINGS, SHA_256, SHA_512, make_users, played
from tests.likeness.tokens import SETTINGS as TOKENS
from tests.likeness.tokens import USERS

pytestmark = pytest.mark.slow

RECORDED: Final = json.loads(ANSWERS.read_text())
DIFFERENT: Final[dict[str, Any]] = {}
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
