"""`penstock groups`: list and show groups of every protocol, their lag, and set offsets of those that commit them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from gateway.cli.client.cluster import GroupSummary, Member, PartitionId, counted
from gateway.cli.client.session import DryRun, Session, connected
from gateway.cli.kafka.several import reasons, tell_deleted
from gateway.cli.options import Yes
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(
    name="groups",
    short_help="Show groups and their lag; set offsets.",
    help="List and show consumer, share and streams groups, their lag, and set their offsets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="GROUP", help="The group's id.")]


@app.command("list")
@connected
def list_groups(session: Session) -> None:
    """List groups with their state and kind."""
    groups = session.cluster.groups()
    if session.output.as_json:
        session.output.result([{"group": one.name, "state": one.state, "kind": one.kind} for one in groups])
    else:
        session.output.table(("group", "state", "kind"), [(one.name, one.state, one.kind) for one in groups])


@app.command()
@connected
def show(session: Session, name: Name) -> None:
    """Show a group's members, their partitions or tasks, and its lag."""
    summary = _summary(session, name)
    members = session.cluster.members(summary)
    lags = _lags(session, summary, _known(session))
    if session.output.as_json:
        listed = [
            {
                "id": one.id,
                "client": one.client,
                "host": one.host,
                "partitions": [{"topic": each.topic, "partition": each.partition} for each in one.partitions],
                **({"tasks": one.tasks} if one.tasks else {}),
            }
            for one in members
        ]
        told = {"group": name, "state": summary.state, "kind": summary.kind}
        session.output.result(told | {"members": listed, "partitions": lags})
        return
    told_of = f"{summary.kind.lower()} group, {summary.state}"
    session.output.line(f"{name}: {told_of}, {counted(len(members), 'member')}, lag {_sum(lags)}")
    if members:
        what = "tasks" if any(one.tasks for one in members) else "partitions"
        rows = [(one.client, one.host, one.id, _holdings(one)) for one in members]
        session.output.table(("client", "host", "member", what), rows)
        session.output.line("")
    _table(session, summary, lags)


@app.command()
@connected
def lag(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="GROUP", help="The group's id; without it, all groups.")] = None,
) -> None:
    """Show how far groups are behind, the one with the largest lag first."""
    if name is not None:
        summary = _summary(session, name)
        lags = _lags(session, summary, _known(session))
        session.output.result(lags) if session.output.as_json else _table(session, summary, lags)
        return
    groups, known = session.cluster.groups(), _known(session)
    rows: list[dict[str, Any]] = []
    with session.output.progress("groups", len(groups)) as advance:
        for one in groups:
            rows.append({"group": one.name, "state": one.state, "lag": _sum(_lags(session, one, known))})
            advance(1)
    rows.sort(key=lambda row: -row["lag"])
    if session.output.as_json:
        session.output.result(rows)
    else:
        session.output.table(("group", "state", "lag"), [list(row.values()) for row in rows])


@app.command()
@connected
def reset(
    session: Session,
    name: Name,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="PLACE",
            help="start, end, an OFFSET, -N (the last N), a time such as 2030-01-31T12:00Z or @MS, or an age such as "
            "-15min.",
        ),
    ],
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "--topic", metavar="TOPIC[:P,P]", help="Only these; else all that the group has offsets of. Repeatable."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Set a group's offsets, once it has no members. Shows each change first, and asks."""
    from gateway.cli.kafka import positions

    place = positions.parse(to, "--to", time.time_ns() // 1_000_000)
    if any(one.is_share for one in session.cluster.groups() if one.name == name):
        raise Refused(f"{name!r} is a share group, which commits no offsets; kafka-share-groups sets where it starts")
    now = session.cluster.group_offsets(name)
    partitions = _chosen(session, topics) if topics else sorted(now)
    if not partitions:
        raise Refused(f"group {name!r} has no offsets: name topics with --topic", ExitCode.CONFIGURATION)
    starts, ends = session.cluster.offsets(partitions, "start"), session.cluster.offsets(partitions, "end")
    at_time = session.cluster.offsets(partitions, place.value) if place.kind == "time" else {}
    wanted = {one: positions.resolve(place, starts[one], ends[one], at_time.get(one, -1)) for one in partitions}
    plan = [
        {"topic": one.topic, "partition": one.partition, "now": now.get(one), "then": wanted[one], "end": ends[one]}
        for one in partitions
    ]
    if not session.output.as_json:
        session.output.table(("topic", "partition", "now", "then", "end"), [list(row.values()) for row in plan])
    refused: Mapping[PartitionId, str] = {}
    if not dry_run:
        session.output.confirm(f"{name}: {counted(len(plan), 'offset')} are set", yes=yes)
        refused = session.cluster.set_group_offsets(name, wanted)
    for one, row in zip(partitions, plan, strict=True):
        if one in refused:
            row["refused"] = refused[one]
    changed = 0 if dry_run else len(plan) - len(refused)
    if session.output.as_json and (not refused or len(plan) > 1):
        session.output.result({"group": name, "changed": changed > 0, "partitions": plan})
    elif changed:
        session.output.line(f"{name}: {counted(changed, 'offset')} set")
    if refused:
        raise Refused(reasons(refused.values()))


@app.command()
@connected
def delete(
    session: Session,
    names: Annotated[list[str], typer.Argument(metavar="GROUP...", help="Groups to delete.")],
    yes: Yes = False,
) -> None:
    """Delete groups with their offsets."""
    names = list(dict.fromkeys(names))
    session.output.confirm(f"{', '.join(names)}: deleted with all committed offsets", yes=yes)
    tell_deleted(session.output, names, session.cluster.delete_groups(names))


def _summary(session: Session, name: str) -> GroupSummary:
    for one in session.cluster.groups():
        if one.name == name:
            return one
    raise Refused(f"there is no group {name!r}; `penstock groups list` names those that are")


def _holdings(member: Member) -> str:
    """Its tasks, those that are not active behind their role, or its partitions."""
    if not member.tasks:
        return " ".join(map(str, member.partitions))
    return " ".join(
        name if role == "active" else f"{role}:{name}" for role, names in member.tasks.items() for name in names
    )


def _known(session: Session) -> Mapping[str, int]:
    """How many partitions each topic has, asked once for all groups."""
    return {topic.name: len(topic.partitions) for topic in session.cluster.topics()}


def _lags(session: Session, group: GroupSummary, known: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each partition that the group has begun, the farthest behind first."""
    rows = _share_rows(session, group) if group.is_share else _committed_rows(session, group, known)
    return sorted(rows, key=lambda row: -(row["lag"] or 0))


def _share_rows(session: Session, group: GroupSummary) -> list[dict[str, Any]]:
    positions = sorted(session.cluster.share_positions(group.name).items())
    return [
        {"topic": one.topic, "partition": one.partition, "start": at.start, "lag": at.lag if at.lag >= 0 else None}
        for one, at in positions
    ]


def _committed_rows(session: Session, group: GroupSummary, known: Mapping[str, int]) -> list[dict[str, Any]]:
    offsets = session.cluster.group_offsets(group.name)
    there = [one for one in offsets if one.partition < known.get(one.topic, 0)]
    ends = session.cluster.offsets(there, "end")
    return [
        {
            "topic": one.topic,
            "partition": one.partition,
            "offset": offset,
            "end": ends.get(one),
            "lag": max(0, ends[one] - offset) if one in ends else None,
        }
        for one, offset in sorted(offsets.items())
    ]


def _sum(lags: Sequence[dict[str, Any]]) -> int:
    return sum(row["lag"] or 0 for row in lags)


def _table(session: Session, group: GroupSummary, lags: Sequence[dict[str, Any]]) -> None:
    names = ("topic", "partition", *(("start",) if group.is_share else ("offset", "end")), "lag")
    session.output.table(names, [list(row.values()) for row in lags])


def _chosen(session: Session, given: Sequence[str]) -> list[PartitionId]:
    """`TOPIC` or `TOPIC:0,3`."""
    chosen: list[PartitionId] = []
    for text in given:
        name, colon, numbers = text.partition(":")
        ids = session.cluster.topics([name])[0].ids
        if colon:
            parts = numbers.split(",")
            known = {str(one.partition): one for one in ids}
            if unknown := [part for part in parts if part not in known]:
                raise Refused(f"--topic {text[:200]}: {name} has no partition {unknown[0][:20]!r}")
            ids = [known[part] for part in parts]
        chosen += ids
    return sorted(set(chosen))
