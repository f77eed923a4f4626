"""Delegation tokens are made, renewed, ended, seen and used as in Kafka."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.gateway.forking import serving
from tests.gateway.security.harness import WITH_RIGHTS
from tests.likeness.tokens import ANSWERS, PLAIN, SCRAM, SETTINGS, USERS, Script

pytestmark = pytest.mark.slow

RECORDED: Final = json.loads(ANSWERS.read_text())
DIFFERENT: Final = {
    # In Kafka the token's holder would be the user of that name.
    "a token for a group": {
        "error_code": 67,
        "principal_type": "Group",
        "principal_name": "staff",
        "token_requester_principal_type": "User",
        "token_requester_principal_name": "admin",
        "expiry_timestamp": -1,
        "max_timestamp": -1,
        "secret_bytes": 0,
        "id_chars": 0,
    },
}
"""What Penstock answers instead, each with its reason."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Penstock's answers, by step."""
    directory = tmp_path_factory.mktemp("gateway")
    users = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
    settings = (
        *WITH_RIGHTS,
        f"sasl.enabled.mechanisms={PLAIN},{SCRAM}",
        f"sasl.jaas.config=PlainLoginModule required {users};",
        *(f"{key}={value}" for key, value in SETTINGS.items()),
    )
    sets = [part for setting in settings for part in ("--set", setting)]
    with serving(directory, "--listen", "SASL_PLAINTEXT://127.0.0.1:0", "--listen", "127.0.0.1:0", *sets) as gateway:
        secured, open_to_all = gateway.ready()["kafka"]
        script = Script(secured, open_to_all)
        yield dict(script.steps())
        script.close()


@pytest.mark.parametrize("step", RECORDED)
def test_as_kafka(ours: dict[str, Any], step: str) -> None:
    """Each step is answered as Kafka answered it."""
    assert ours[step] == DIFFERENT.get(step, RECORDED[step])


def test_all_recorded(ours: dict[str, Any]) -> None:
    """Every step has been asked of Kafka, and nothing else was recorded."""
    assert list(RECORDED) == list(ours)


@pytest.mark.parametrize("step", DIFFERENT)
def test_differences_are_some(step: str) -> None:
    """What is listed as different is."""
    assert DIFFERENT[step] != RECORDED[step]
