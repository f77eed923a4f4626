"""Long lists about ACLs, where there is an authorizer: nobody else waits for them either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from gateway.apis import discover
from gateway.dispatch.registry import Api
from gateway.wire.codec import request_codec
from tests.gateway.dispatch.test_long_requests import (
    ITEMS,
    TURN_S_MAX,
    Gateway,
    filled,
    lists_of,
    own_time_only,
)
from tests.gateway.harness import running_broker
from tests.gateway.security.harness import STANDARD
from tests.likeness.rights import ANY_ACL, READ, TOPIC, acl

pytestmark = pytest.mark.slow

CREATE_ACLS, DELETE_ACLS, DESCRIBE_ACLS = 30, 31, 29
SETTINGS = (STANDARD, "audit.log=", "acls.max=100000")
SHOWN = 20_000
__all__ = ["own_time_only"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A broker on which everybody may do everything, or nothing."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        serving = running_broker(tmp_path_factory.mktemp("long"), *SETTINGS, *request.param)
        broker = runner.run(serving.__aenter__())
        try:
            yield Gateway(broker, runner)
        finally:
            runner.run(serving.__aexit__(None, None, None))


def api_of(key: int) -> Api:
    api = discover().get(key)
    assert api is not None
    return api


@pytest.mark.parametrize("gateway", [("super.users=User:ANONYMOUS",)], indirect=True, ids=["super"])
def test_many_acls(gateway: Gateway) -> None:
    """As many ACLs as a message may hold are made, described, and deleted one by one."""
    names = [f"topic-{number}" for number in range(SHOWN)]
    create = {"creations": [acl(TOPIC, name, READ) for name in names]}
    assert gateway.ask(api_of(CREATE_ACLS), create) < TURN_S_MAX
    assert gateway.broker.authorizer is not None
    assert len(gateway.broker.authorizer) == SHOWN
    assert gateway.ask(api_of(DESCRIBE_ACLS), ANY_ACL) < TURN_S_MAX
    named = {"resource_type_filter": TOPIC, "pattern_type_filter": 3, "operation": READ, "permission_type": 3}
    exact = {**named, "principal_filter": "User:ANONYMOUS", "host_filter": "*"}
    filters = [{**exact, "resource_name_filter": name} for name in names]
    assert gateway.ask(api_of(DELETE_ACLS), {"filters": filters}) < TURN_S_MAX
    assert len(gateway.broker.authorizer) == 0


@pytest.mark.parametrize("gateway", [()], indirect=True, ids=["nobody"])
@pytest.mark.parametrize("api", discover(), ids=lambda api: api.name)
def test_many_denials(gateway: Gateway, api: Api) -> None:
    """A client without rights that names as much as a message may hold keeps nobody waiting."""
    codec = request_codec(api.key, api.versions[-1])
    for long in lists_of(codec.struct):
        turn_s = gateway.ask(api, filled(codec.struct, long))

        assert turn_s < TURN_S_MAX, f"{turn_s * 1000:.0f} ms for {ITEMS} in {'.'.join(long)}"
