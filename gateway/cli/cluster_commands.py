"""`penstock cluster status|rebalance`: the cluster as etcd has it.

Keeps: `status` changes nothing, and nothing else does without `--yes`. Each error says what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.cluster.balancing import BUSY, GAIN, distribution, loads_of, next_move
from core.cluster.coordination import Stage
from core.cluster.levels import Feature, allows
from core.cluster.loads import IDLE
from core.cluster.members import last_servers
from core.cluster.observing import Observer, observed
from core.errors import CoordinatorAway
from gateway import logs
from gateway.cli.cluster_advice import Seen, advice
from gateway.cli.options import Settings
from gateway.cli.output import Output, Size, time_of
from gateway.cli.refused import Refused
from gateway.cli.refused import run as run_refused
from gateway.cluster.seat import etcd_settings
from gateway.config.cluster import parse_cluster
from gateway.config.conflicts import way_to_etcd
from gateway.config.loading import Config
from gateway.exits import ExitCode
from gateway.process.outcome import outcome

ADDRESSES_SHOWN: Final = 4
MOVES_SHOWN: Final = 20
NODES_NAMED: Final = 20


def run_status(settings: Settings, *, as_json: bool) -> ExitCode:
    """Show the cluster."""
    return run(settings, Output(as_json=as_json), _status)


def run_rebalance(settings: Settings, *, yes: bool, as_json: bool) -> ExitCode:
    """Ask for one move, if there is one to ask for."""
    return run(settings, Output(as_json=as_json), lambda seen, output: _rebalance(seen, output, yes=yes))


def run_finalize(settings: Settings, *, yes: bool, as_json: bool) -> ExitCode:
    """Raise the level of the cluster."""
    return run(settings, Output(as_json=as_json), lambda seen, output: _finalize(seen, output, yes=yes))


Command = Callable[[Observer, Output], Awaitable[ExitCode]]


def run(settings: Settings, output: Output, command: Command) -> ExitCode:
    """Observe the configured cluster, and do this with it."""
    config = settings.load(check=way_to_etcd)

    async def main() -> ExitCode:
        async with observed(etcd_settings(config), parse_cluster(config.cluster).name) as seen:
            return await command(seen, output)

    return ended(config, main)


def ended(config: Config, main: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    """Run with a configuration that names a cluster; an error is one line on standard error."""

    async def refusable() -> ExitCode | Refused:
        try:
            return await main()
        except Refused as refused:
            return refused
        except CoordinatorAway as away:
            return Refused(
                f"{away}. Check --cluster, or bring etcd back: until then nodes acknowledge nothing, and serve nothing "
                "once their leases have ended; nothing that was acknowledged is lost",
                ExitCode.STORAGE,
            )

    def command() -> ExitCode:
        if not config.cluster:
            raise Refused("name the cluster: --cluster etcd://HOST:PORT,.../NAME", ExitCode.CONFIGURATION)
        logs.setup_of_tool(config.logging_format)
        end: ExitCode | Refused = ExitCode.CLEAN

        def work() -> ExitCode:
            nonlocal end
            end = asyncio.run(refusable())
            return ExitCode.CLEAN if isinstance(end, Refused) else end

        code = outcome(work)
        if isinstance(end, Refused):
            raise end
        return code

    try:
        return run_refused(command)
    finally:
        logs.flush()


# status


@dataclass(frozen=True, slots=True)
class _Row:
    """One container, for people."""

    container: int
    node: int | None
    epoch: int | None
    state: str
    last_node: int | None
    target: int | None
    log_bytes: int | None
    bytes_in_s: float
    bytes_out_s: float
    weight: float


def _rows(seen: Observer) -> list[_Row]:
    coordination = seen.coordination
    owners, wishes, told = coordination.owners(), coordination.wishes(), coordination.loads()
    servers = last_servers(coordination.members())
    rows: list[_Row] = []
    for container in coordination.containers:
        owner, wish = owners.get(container), wishes.get(container)
        load = told.get(owner.node, {}).get(container) if owner is not None else None
        shown = load or IDLE
        rows.append(
            _Row(
                container=container,
                node=None if owner is None else owner.node,
                epoch=None if owner is None else owner.epoch,
                state="nobody's" if owner is None else owner.stage.value,
                last_node=servers.get(container),
                target=None if wish is None else wish.node,
                log_bytes=None if load is None else load.log_bytes,
                bytes_in_s=shown.bytes_in_s,
                bytes_out_s=shown.bytes_out_s,
                weight=shown.weight,
            )
        )
    return rows


def _addresses(told: Mapping[str, Any]) -> dict[str, str]:
    """A node's addresses by listener, as it tells them."""
    listeners = told.get("listeners")
    pairs = listeners.items() if isinstance(listeners, dict) else ()
    return {
        str(name): f"{place[0]}:{place[1]}"
        for name, place in list(pairs)[:ADDRESSES_SHOWN]
        if isinstance(place, list) and len(place) == 2
    }


async def _nodes(seen: Observer) -> list[dict[str, Any]]:
    coordination = seen.coordination
    told, renewals = coordination.nodes(), await seen.renewals()
    loads = loads_of(distribution(coordination.owners(), coordination.lives(), seen.weights()))
    owned = [owner.node for owner in coordination.owners().values()]
    return [
        {
            "id": node,
            "addresses": _addresses(told.get(node, {})),
            "draining": life.is_draining,
            "reaches_bucket": life.reaches_store,
            "level": life.level,
            "lease_ttl_s": renewal.ttl_s if (renewal := renewals.get(node)) is not None else None,
            "lease_age_s": None if renewal is None else renewal.age_s,
            "containers": owned.count(node),
            "load": round(loads[node], 4) if node in loads else None,
        }
        for node, life in sorted(coordination.lives().items())
    ]


def _ended(seen: Observer) -> list[dict[str, Any]]:
    """The nodes that live no more, until they are forgotten."""
    coordination = seen.coordination
    return [
        {
            "id": node,
            "addresses": _addresses(member.told),
            "stopped": member.has_left,
            "ended_ms": member.ended_ms,
            "had": sorted(member.served),
            "left": sorted(member.served.keys() - coordination.owners().keys()),
        }
        for node, member in sorted(coordination.members().items())
        if node not in coordination.lives()
    ]


async def _status(seen: Observer, output: Output) -> ExitCode:
    nodes, ended, rows = await _nodes(seen), _ended(seen), _rows(seen)
    sentences = advice(_seen(seen, nodes))
    facts: dict[str, Any] = {"cluster": seen.meta.cluster, "level": seen.coordination.level}
    if output.as_json:
        moves = [
            {"stream": name, "slot": one.place[1], "to": one.target, "refused": one.why_not or None}
            for name, one in seen.moves()
        ]
        facts["epoch"] = seen.epoch
        containers = [_in_json(row) for row in rows]
        lists = {"nodes": nodes, "ended": ended, "containers": containers, "moves": moves, "advice": sentences}
        output.result({**facts, **lists})
        return ExitCode.CLEAN
    output.fields({**facts, "containers": seen.meta.containers, "last epoch": seen.epoch})
    output.line("")
    _show_nodes(nodes, ended, output)
    output.line("")
    _show_containers(rows, output)
    for name, one in seen.moves()[:MOVES_SHOWN]:
        what = f"partition {one.place[1]} of {name} is on its way to container {one.target}"
        output.note(f"{what}, and stays where it is: {one.why_not}" if one.why_not else what)
    for sentence in sentences:
        output.note(sentence)
    return ExitCode.CLEAN


def _in_json(row: _Row) -> dict[str, Any]:
    return {
        "id": row.container,
        "node": row.node,
        "epoch": row.epoch,
        "state": row.state,
        "last_node": row.last_node,
        "moves_to": row.target,
        "log_bytes": row.log_bytes,
        "bytes_in_s": row.bytes_in_s,
        "bytes_out_s": row.bytes_out_s,
        "load": round(row.weight, 4),
    }


def _show_nodes(nodes: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]], output: Output) -> None:
    output.table(
        ("node", "addresses", "state", "level", "lease renewed", "containers", "load"),
        [
            (
                one["id"],
                _places(one),
                "draining" if one["draining"] else "lives" if one["reaches_bucket"] else "without the bucket",
                one["level"],
                None if one["lease_age_s"] is None else f"{one['lease_age_s']} s ago, of {one['lease_ttl_s']} s",
                one["containers"],
                None if one["load"] is None else f"{one['load']:.2f}",
            )
            for one in nodes
        ]
        + [
            (
                one["id"],
                _places(one),
                "stopped" if one["stopped"] else "gone",
                None,
                None if one["ended_ms"] is None else f"ended {time_of(one['ended_ms'])}",
                0,
                None,
            )
            for one in ended
        ],
    )


def _places(node: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={place}" for name, place in node["addresses"].items())


def _show_containers(rows: Sequence[_Row], output: Output) -> None:
    output.table(
        ("container", "node", "epoch", "state", "log", "in /s", "out /s", "load"),
        [
            (
                row.container,
                row.node,
                row.epoch,
                _state(row),
                None if row.log_bytes is None else Size(row.log_bytes),
                Size(round(row.bytes_in_s)),
                Size(round(row.bytes_out_s)),
                f"{row.weight:.2f}",
            )
            for row in rows
        ],
    )


def _state(row: _Row) -> str:
    if row.target is not None:
        return f"{row.state}, moves to node {row.target}"
    return row.state if row.node is not None or row.last_node is None else f"{row.state}, last at node {row.last_node}"


def _seen(seen: Observer, nodes: Sequence[Mapping[str, Any]]) -> Seen:
    coordination = seen.coordination
    renewed = {one["id"]: (one["lease_age_s"], one["lease_ttl_s"]) for one in nodes if one["lease_age_s"] is not None}
    return Seen(
        coordination.containers,
        coordination.owners(),
        coordination.lives(),
        renewed,
        coordination.troubles(),
        coordination.members(),
    )


# rebalance


async def _rebalance(seen: Observer, output: Output, *, yes: bool) -> ExitCode:
    coordination = seen.coordination
    _refuse_unrest(seen)
    nodes = distribution(coordination.owners(), coordination.lives(), seen.weights())
    if len(nodes) < 2:
        raise Refused(f"{len(nodes)} node takes containers, and a move needs two: start another one")
    loads = loads_of(nodes)
    move = next_move(nodes)
    if move is not None and not allows(coordination.level, Feature.WISHES):
        raise Refused(
            f"the cluster is at level {coordination.level}, and moves are asked for from level {int(Feature.WISHES)} "
            "on: finish its upgrade with `penstock cluster finalize`"
        )
    asked = move is not None and yes and await coordination.ask(move.container, move.target)
    if output.as_json:
        moved = None if move is None else {"container": move.container, "from": move.source, "to": move.target}
        output.result(
            {"loads": {str(node): round(load, 4) for node, load in loads.items()}, "move": moved, "asked": asked}
        )
    else:
        output.table(("node", "load"), [(node, f"{load:.2f}") for node, load in sorted(loads.items())])
        output.line("")
    if move is None:
        output.note(
            f"nothing to move: no node has more than {BUSY} times the mean load, or no single move would lower the "
            f"load of the busiest one by {GAIN:.0%}"
        )
        return ExitCode.CLEAN
    what = f"container {move.container} from node {move.source} to node {move.target}: {move.reason}"
    if not yes:
        output.note(f"would move {what}. Say --yes to do it")
    elif asked:
        output.note(f"asked for the move of {what}. `penstock cluster status` shows how far it is")
    else:
        raise Refused("the cluster has changed meanwhile, nothing was asked for: look again")
    return ExitCode.CLEAN


def _refuse_unrest(seen: Observer) -> None:
    """Raise Refused while something is on its way: the loads will be others when it has come."""
    coordination = seen.coordination
    owners, wishes = coordination.owners(), coordination.wishes()
    served = {one for one, owner in owners.items() if owner.stage is Stage.SERVING}
    waiting = [one for one in coordination.containers if one not in served]
    if waiting:
        named = ", ".join(map(str, waiting[:NODES_NAMED]))
        raise Refused(
            f"{len(waiting)} containers are not served ({named}): wait until `penstock cluster status` shows all as "
            "serving. If one stays so, the logs of the nodes say why"
        )
    if wishes:
        raise Refused(
            f"container {min(wishes)} is on its way to node {wishes[min(wishes)].node}: wait until it is there"
        )


# finalize


async def _finalize(seen: Observer, output: Output, *, yes: bool) -> ExitCode:
    lives = seen.coordination.lives()
    known = {node: life.level for node, life in lives.items()}
    before, level = seen.coordination.level, min(known.values(), default=0)
    if not known:
        raise Refused("no node lives: start all nodes of the cluster, then finish its upgrade")
    older = sorted(node for node, its in known.items() if its == level < max(known.values()))
    if level <= before and older:
        named = ", ".join(map(str, older[:NODES_NAMED]))
        raise Refused(
            f"the cluster stays at level {before}: nodes {named} know no higher one. Upgrade them first, or stop them"
        )
    if level > before:
        output.confirm(
            f"this raises cluster {seen.meta.cluster} from level {before} to {level}, for ever: no node of an older "
            "release can join it then",
            yes=yes,
        )
        level = await seen.raise_level()
    if output.as_json:
        output.result({"level": max(level, before), "was": before})
    elif level > before:
        output.line(f"the cluster is at level {level}")
    else:
        output.line(f"the cluster is at level {before}, the highest that its nodes know: nothing is left to finish")
    return ExitCode.CLEAN
