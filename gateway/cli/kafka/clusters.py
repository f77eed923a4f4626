"""`penstock cluster`: the cluster as clients see it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import typer

from gateway.cli import cluster as by_etcd
from gateway.cli import cluster_moves
from gateway.cli.client.cluster import Broker, Partition, Topic, counted
from gateway.cli.client.session import Session, connected
from gateway.exits import ExitCode

app = typer.Typer(
    name="cluster",
    help="The cluster as clients see it, and as its nodes do.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
by_etcd.register(app)
cluster_moves.register(app)

DIAL_S: Final = 3.0
NAMED_MAX: Final = 20
"""Partitions that a finding names."""


@app.command()
@connected
def info(session: Session) -> None:
    """Show the cluster's id, its brokers with the addresses that clients get, and its size."""
    told = session.cluster.info()
    topics = session.cluster.topics()
    groups = session.cluster.groups()
    counts = {
        "topics": len(topics),
        "partitions": sum(len(one.partitions) for one in topics),
        "groups": len(groups),
    }
    if session.output.as_json:
        brokers = [
            {"id": one.id, "host": one.host, "port": one.port, "rack": one.rack, "fenced": one.fenced}
            for one in told.brokers
        ]
        session.output.result({"id": told.id, "controller": told.controller, "brokers": brokers, **counts})
        return
    session.output.fields({"cluster": told.id, "controller": f"broker {told.controller}", **counts})
    session.output.line("")
    rows = [(one.id, one.host, one.port, one.rack, "fenced" if one.fenced else "serves") for one in told.brokers]
    session.output.table(("broker", "host", "port", "rack", "state"), rows)


@app.command()
@connected
def health(session: Session) -> ExitCode:
    """Look for brokers that do not answer and partitions without leader or replicas; exit code 1 if there are any.

    Fenced brokers are named and fail nothing: most were stopped on purpose, and the others miss a leader or replicas.
    """
    told = session.cluster.info()
    serving = [one for one in told.brokers if not one.fenced]
    silent = [one for one in serving if not _answers(one)]
    fenced = [one.id for one in told.brokers if one.fenced]
    topics = session.cluster.topics()
    leaderless = _named(topics, lambda partition: partition.leader < 0)
    behind = _named(topics, lambda partition: len(partition.in_sync) < len(partition.replicas))
    healthy = not silent and not leaderless and not behind
    if session.output.as_json:
        session.output.result(
            {
                "healthy": healthy,
                "brokers": len(serving),
                "silent_brokers": [one.id for one in silent],
                "fenced_brokers": fenced,
                "leaderless": leaderless,
                "under_replicated": behind,
            }
        )
        return _code(healthy)
    for broker in silent:
        where = f"{broker.host}:{broker.port}"
        session.output.line(f"broker {broker.id} does not answer at {where}, which is the address that clients get")
    for broker_id in fenced[:NAMED_MAX]:
        session.output.line(f"broker {broker_id} is fenced: it was stopped or has died, and serves nothing")
    _say(session, leaderless, "without a leader")
    _say(session, behind, "with fewer replicas in sync than it has")
    if healthy:
        session.output.line(f"healthy: {counted(len(serving), 'broker')}, {counted(len(topics), 'topic')}")
    return _code(healthy)


def _answers(broker: Broker) -> bool:
    try:
        socket.create_connection((broker.host, broker.port), timeout=DIAL_S).close()
    except OSError:
        return False
    return True


def _named(topics: list[Topic], wrong: Callable[[Partition], bool]) -> list[str]:
    return [f"{topic.name}-{one.id}" for topic in topics for one in topic.partitions if wrong(one)]


def _say(session: Session, partitions: list[str], what: str) -> None:
    if partitions:
        shown = ", ".join(partitions[:NAMED_MAX]) + (", ..." if len(partitions) > NAMED_MAX else "")
        session.output.line(f"{counted(len(partitions), 'partition')} {what}: {shown}")


def _code(healthy: bool) -> ExitCode:
    return ExitCode.CLEAN if healthy else ExitCode.UNEXPECTED
