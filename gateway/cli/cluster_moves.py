"""`penstock cluster move|drain|forget`: containers that are handed over, and nodes that are given up, because an
operator wishes so.

Keeps: a command asks, and the nodes do it; it ends when that is done, and what it has asked for goes on without it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli import refused
from gateway.cli.client.cluster import counted
from gateway.cli.options import AsJson, Settings, Yes, configured
from gateway.cli.output import Output

if TYPE_CHECKING:
    from core.cluster.etcd_coordination import EtcdCoordination
    from core.cluster.observing import Observer
    from gateway.exits import ExitCode

LOOK_S: Final = 0.02
ASK_AGAIN_S: Final = 2.0
"""A wish is void when the container has another owner, or the node another life: then it is asked for again."""

Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, max=86_400, help="How long it is waited for.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to those of `penstock cluster`."""
    app.command()(configured("cluster")(move))
    app.command()(configured("cluster")(drain))
    app.command()(configured("cluster")(forget))


def move(
    settings: Settings,
    container: Annotated[int, typer.Argument(metavar="CONTAINER", min=0, help="The container's number.")],
    node: Annotated[int, typer.Argument(metavar="NODE", min=0, help="The id of the node that is to serve it.")],
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Have a container served by another node, which reads ahead before its owner lets go.

    Producers and consumers of its partitions are told of the new leader; groups and transactions go on.
    """
    _run(settings, Output(as_json=as_json), lambda cluster, told: _move(cluster, container, node, timeout, told))


def drain(
    settings: Settings,
    node: Annotated[int, typer.Argument(metavar="NODE", min=0, help="The id of the node.")],
    yes: Yes = False,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Have all containers of a node handed over to others. It gets none until it is started again."""
    output = Output(as_json=as_json)
    if code := refused.run(lambda: output.confirm(f"all containers of node {node} go to others", yes=yes)):
        sys.exit(code)
    _run(settings, output, lambda cluster, told: _drain(cluster, node, timeout, told))


def forget(
    settings: Settings,
    node: Annotated[int, typer.Argument(metavar="NODE", min=0, help="The id of the node.")],
    as_json: AsJson = False,
) -> None:
    """Have the cluster forget a node that has gone and will not come back: `status` lists it no more.

    It changes nothing else, and the id may be used again.
    """
    from gateway.cli.cluster_commands import run

    sys.exit(run(settings, Output(as_json=as_json), lambda seen, output: _forget(seen, node, output)))


def _run(settings: Settings, told: Output, do: Callable[[EtcdCoordination, Output], Awaitable[ExitCode]]) -> None:
    from gateway.cli.cluster_commands import run

    sys.exit(run(settings, told, lambda seen, output: do(seen.coordination, output)))


async def _move(cluster: EtcdCoordination, container: int, node: int, timeout_s: float, told: Output) -> ExitCode:
    from core.cluster.coordination import Stage
    from core.cluster.levels import Feature, allows
    from gateway.exits import ExitCode

    if container not in cluster.containers:
        return _refused(f"there is no container {container}: they are 0 to {len(cluster.containers) - 1}")
    if node not in cluster.lives():
        return _refused(f"node {node} is not running: these are: {_named(cluster.lives())}")
    if cluster.lives()[node].is_draining:
        return _refused(f"node {node} drains: start it again before it is given anything")
    if not cluster.lives()[node].takes:
        return _refused(f"node {node} does not reach the bucket, and could not open anything: repair its way there")
    before, began, asked_at = cluster.owners().get(container), time.monotonic(), -ASK_AGAIN_S
    if before is not None and before.node == node:
        moved = {"container": container, "from": node, "to": node, "seconds": 0.0}
        told.result(moved) if told.as_json else told.line(f"container {container} is with node {node}")
        return ExitCode.CLEAN
    if not allows(cluster.level, Feature.WISHES):
        return _refused(
            f"the cluster is at level {cluster.level}, and containers move from level {int(Feature.WISHES)} on: finish "
            "its upgrade with `penstock cluster finalize`"
        )
    while (spent := time.monotonic() - began) < timeout_s:
        owner = cluster.owners().get(container)
        if owner is not None and owner.node == node and owner.stage is Stage.SERVING:
            former = None if before is None else before.node
            if told.as_json:
                told.result({"container": container, "from": former, "to": node, "seconds": round(spent, 3)})
            else:
                source = "nobody" if former is None else f"node {former}"
                told.line(f"container {container}: {source} -> node {node}, {spent:.1f} s")
            return ExitCode.CLEAN
        if container not in cluster.wishes() and time.monotonic() > asked_at + ASK_AGAIN_S:
            asked_at = time.monotonic()
            await cluster.ask(container, node)
        await asyncio.sleep(LOOK_S)
    return _late(f"container {container} is not with node {node} after {timeout_s:g} s: it may come there yet")


async def _drain(cluster: EtcdCoordination, node: int, timeout_s: float, told: Output) -> ExitCode:
    from gateway.exits import ExitCode

    life, began = cluster.lives().get(node), time.monotonic()
    if life is None:
        return _refused(f"node {node} is not running: these are: {_named(cluster.lives())}")
    if not any(other.takes for other in cluster.lives().values() if other.node != node):
        return _refused(f"there is no other node that could take the containers of node {node}")
    await cluster.ask_to_drain(life)
    left: set[int] | None = None
    while (spent := time.monotonic() - began) < timeout_s:
        now = {container for container, owner in cluster.owners().items() if owner.life == life.life}
        if now != left:
            told.note(f"node {node} has {counted(len(now), 'container')}")
            left = now
        if not now:
            if told.as_json:
                told.result({"node": node, "containers": 0, "seconds": round(spent, 3)})
            else:
                told.line(f"node {node} is empty after {spent:.1f} s, and gets nothing until it is started again")
            return ExitCode.CLEAN
        await asyncio.sleep(LOOK_S)
    return _late(f"node {node} has {len(left or ())} containers after {timeout_s:g} s: it goes on handing them over")


async def _forget(seen: Observer, node: int, told: Output) -> ExitCode:
    from gateway.exits import ExitCode

    cluster = seen.coordination
    if node in cluster.lives():
        return _refused(f"node {node} is running: stop it first")
    if node not in cluster.members():
        gone = _named(cluster.members().keys() - cluster.lives().keys())
        return _refused(f"node {node} is not known: " + (f"these have gone: {gone}" if gone else "none has gone"))
    if not await seen.forget(node):
        return _refused(f"node {node} has changed meanwhile: look at `penstock cluster status`, and try again")
    told.result({"node": node}) if told.as_json else told.line(f"node {node} is forgotten")
    return ExitCode.CLEAN


def _named(nodes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(nodes)))


def _refused(why: str) -> ExitCode:
    from gateway.exits import ExitCode

    typer.echo(f"penstock: {why}", err=True)
    return ExitCode.CONFIGURATION


def _late(why: str) -> ExitCode:
    from gateway.exits import ExitCode

    typer.echo(f"penstock: {why}", err=True)
    return ExitCode.UNEXPECTED
