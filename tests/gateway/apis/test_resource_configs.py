"""Configs of single groups and metrics subscriptions: kept, bounded, changed whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.kafka_configs.patterns import PATTERN_CHARS_MAX
from gateway.kafka_configs.resource_configs import STORED_CHARS_MAX, ResourceConfigs
from gateway.kafka_configs.resource_keys import KINDS
from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin, admin_of, code_and_message

pytestmark = pytest.mark.slow

METRICS, GROUP = 16, 32
SET, DELETE = 0, 1
TIMEOUT = "consumer.session.timeout.ms"
ODD_NAMES = ("a", "a\0b", "\0", "ä ö", "16", "32\0a", "x" * 5_000)


def alter(admin: Admin, kind: int, name: str, **changes: str | None) -> Message:
    configs = [
        {"name": key.replace("_", "."), "config_operation": DELETE if text is None else SET, "value": text}
        for key, text in changes.items()
    ]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    (outcome,) = admin.ask("IncrementalAlterConfigs", 1, resources=[resource]).responses
    return outcome  # type: ignore[no-any-return]


def names(admin: Admin, kind: int) -> list[str]:
    found = admin.ask("ListConfigResources", 1, resource_types=[kind]).config_resources
    return [resource.resource_name for resource in found]


def value(admin: Admin, kind: int, name: str, key: str) -> str:
    asked = {"resource_type": kind, "resource_name": name, "configuration_keys": [key]}
    (result,) = admin.ask("DescribeConfigs", 4, resources=[asked]).results
    return str(result.configs[0].value)


def test_kept(tmp_path: Path) -> None:
    """Whatever the names, set configs are there after a restart, and removed ones are not."""
    with admin_of(tmp_path) as admin:
        for name in ODD_NAMES:
            assert alter(admin, GROUP, name, consumer_session_timeout_ms="50000").error_code == 0
            assert alter(admin, METRICS, name, metrics="org.apache").error_code == 0
        alter(admin, METRICS, "16", metrics=None)
        admin.restart()

        assert sorted(ODD_NAMES) == names(admin, GROUP)
        assert sorted({*ODD_NAMES} - {"16"}) == names(admin, METRICS)
        assert {value(admin, GROUP, name, TIMEOUT) for name in ODD_NAMES} == {"50000"}
        assert value(admin, METRICS, "16", "metrics") == ""


def test_whole(admin: Admin) -> None:
    """One config that cannot be leaves the others of its request unset."""
    refused = alter(admin, GROUP, "whole", consumer_session_timeout_ms="50000", consumer_heartbeat_interval_ms="1")

    assert refused.error_code == 40
    assert "whole" not in names(admin, GROUP)


def test_together(admin: Admin) -> None:
    """Changes of one group that come together lose nothing of each other."""
    configs: ResourceConfigs = admin.broker.resource_configs

    async def both() -> None:
        await asyncio.gather(
            configs.configure(KINDS[GROUP], "both", lambda now: {**now, TIMEOUT: "50000"}),
            configs.configure(KINDS[GROUP], "both", lambda now: {**now, "share.isolation.level": "read_committed"}),
        )

    admin.run(both())

    assert value(admin, GROUP, "both", TIMEOUT) == "50000"
    assert value(admin, GROUP, "both", "share.isolation.level") == "read_committed"


def test_removed_and_looked_at(admin: Admin) -> None:
    """In a cluster all that is stored is taken over while a change is on its way, the change itself too."""
    configs: ResourceConfigs = admin.broker.resource_configs

    async def remove() -> None:
        await configs.configure(KINDS[GROUP], "brief", lambda now: {TIMEOUT: "50000"})
        removing = asyncio.create_task(configs.configure(KINDS[GROUP], "brief", lambda now: {}))
        while configs.own(GROUP, "brief"):
            await asyncio.sleep(0)
            configs.take_over()
        await removing

    admin.run(asyncio.wait_for(remove(), 10))

    assert "brief" not in names(admin, GROUP)


def test_bounded(tmp_path: Path) -> None:
    """All of them together take a bounded room; what makes it smaller is taken all the same."""
    with admin_of(tmp_path) as admin:
        piece = "m" * (STORED_CHARS_MAX // 400)
        outcomes = [alter(admin, METRICS, f"s{number}", metrics=piece).error_code for number in range(401)]

        assert outcomes.count(0) == 399
        assert outcomes[-1] == 44
        assert alter(admin, METRICS, "s0", metrics=None).error_code == 0
        assert alter(admin, METRICS, "s400", metrics=piece).error_code == 0


@pytest.mark.parametrize(
    "pattern",
    ["client_id=" + "(" * 900, "client_id=" + "a" * (PATTERN_CHARS_MAX + 1), "client_id=((a{900}){900})"],
)
def test_hostile_patterns(admin: Admin, pattern: str) -> None:
    """A pattern that is too long or too deep is refused like one that is none."""
    assert code_and_message(alter(admin, METRICS, "hostile", match=pattern)) == (
        40,
        f"Illegal client matching pattern: {pattern}"[:1_000],
    )


def test_stored_form(admin: Admin) -> None:
    """The stored form of a resource stays as it is: the next release reads it."""
    alter(admin, METRICS, "stored\0form", interval_ms="1000")

    assert admin.broker.store.table("resourceconfig").get(b"16\0stored\0form\0interval.ms") == b"1000"
