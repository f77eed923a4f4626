"""`penstock topics`: list, show, create, alter, delete and grow topics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.client.cluster import PartitionId, Topic, counted
from gateway.cli.client.session import DryRun, Session, connected
from gateway.cli.kafka.several import tell_deleted, tell_left_alone
from gateway.cli.options import Yes
from gateway.cli.output import Size
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(
    name="topics",
    help="List, create, alter, grow and delete topics.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Topic config, such as retention.ms=7d. May be given repeatedly."),
]


@app.command("list")
@connected
def list_topics(
    session: Session,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Regular expression that names must match.")] = "",
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Show bytes on disk as well, the largest topic first.")
    ] = False,
    internal: Annotated[bool, typer.Option("--internal", help="Show Kafka's internal topics as well.")] = False,
) -> None:
    """List topics."""
    wanted = _pattern(pattern)
    topics = [one for one in session.cluster.topics() if wanted.search(one.name) and (internal or not one.internal)]
    found = session.cluster.sizes() if sizes else {}
    rows: list[dict[str, Any]] = [
        {"topic": one.name, "partitions": len(one.partitions), "replication": one.replication} for one in topics
    ]
    if sizes:
        for row, topic in zip(rows, topics, strict=True):
            row["bytes"] = sum(found.get(one, 0) for one in topic.ids)
        rows.sort(key=lambda row: -row["bytes"])
    if session.output.as_json:
        session.output.result(rows)
    else:
        columns = ["topic", "partitions", "replication", *(["size"] if sizes else [])]
        session.output.table(columns, [[*list(row.values())[:3], *_size(row)] for row in rows])


@app.command()
@connected
def show(session: Session, name: Name) -> None:
    """Show a topic's partitions with their offsets, and its configs that differ from the default."""
    topic = session.cluster.topics([name])[0]
    rows = _partitions(session, topic)
    configs = [one for one in session.cluster.configs("topic", name) if one.changed]
    if session.output.as_json:
        told = {"topic": name, "internal": topic.internal, "partitions": rows}
        session.output.result(told | {"configs": {one.key: one.value for one in configs}})
        return
    records = sum(max(0, row["end"] - row["start"]) for row in rows)
    session.output.line(f"{name}: {counted(len(rows), 'partition')}, {counted(records, 'offset')} in use")
    columns = ("partition", "leader", "replicas", "in sync", "start", "end")
    session.output.table(columns, [[*_listed(row), row["start"], row["end"]] for row in rows])
    session.output.line("")
    session.output.table(("config", "value", "source"), [(one.key, one.value, one.origin) for one in configs])


@app.command()
@connected
def create(
    session: Session,
    names: Annotated[list[str] | None, typer.Argument(metavar="TOPIC...", help="Names of the new topics.")] = None,
    partitions: Annotated[
        int, typer.Option("--partitions", "-p", metavar="N", help="Partitions; -1: the cluster's default.")
    ] = -1,
    replication: Annotated[
        int, typer.Option("--replication", "-r", metavar="N", help="Replicas; -1: the cluster's default.")
    ] = -1,
    configs: Set = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="TOML or JSON: a table a topic, with partitions, replication, configs."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Create topics, from flags or from a file of settings."""
    from gateway.cli.kafka.settings import TopicSettings, assignments, topics_in

    given = assignments(configs)
    wanted = [TopicSettings(name, partitions, replication, given) for name in names or ()]
    if file is not None:
        wanted += topics_in(file)
    if not wanted:
        raise Refused("name a topic, or a file of them with --file", ExitCode.CONFIGURATION)
    done: list[str] = []
    try:
        for one in wanted:
            session.cluster.create_topic(one.name, one.partitions, one.replication, one.configs, dry_run=dry_run)
            done.append(one.name)
            if not session.output.as_json:
                session.output.line(f"{one.name}: {'would be created' if dry_run else 'created'}")
    except Refused as refused:
        names = [one.name for one in wanted]
        _tell_refused(session, done, names[len(done)], names[len(done) + 1 :], str(refused), dry_run=dry_run)
        raise
    if session.output.as_json:
        session.output.result({"topics": done, "created": not dry_run})


@app.command()
@connected
def alter(
    session: Session,
    name: Name,
    configs: Set = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Take a key back to its default. May be given repeatedly."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a topic's configs."""
    from gateway.cli.kafka.configs import change

    change(session, "topic", name, configs, unset, dry_run=dry_run)


@app.command()
@connected
def delete(
    session: Session,
    names: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="Topics to delete.")],
    yes: Yes = False,
) -> None:
    """Delete topics with all of their records."""
    names = list(dict.fromkeys(names))
    topics, missing = session.cluster.find_topics(names)
    if missing:
        tell_left_alone(session.output, "deleted", names, missing)
    partitions = sum(len(one.partitions) for one in topics)
    what = f"{', '.join(names)}: {counted(partitions, 'partition')} and every record in them are deleted for good"
    session.output.confirm(what, yes=yes)
    tell_deleted(session.output, names, session.cluster.delete_topics(names))


@app.command()
@connected
def grow(
    session: Session,
    name: Name,
    partitions: Annotated[int, typer.Option("--partitions", "-p", metavar="N", help="Partitions then.")],
    yes: Yes = False,
) -> None:
    """Give a topic more partitions. Keys then go to other partitions than before, and no topic ever has fewer."""
    now = len(session.cluster.topics([name])[0].partitions)
    if partitions <= now:
        raise Refused(f"{name} has {counted(now, 'partition')} already, and no topic can have fewer than before")
    why = "keys go to other partitions from then on, and that cannot be undone"
    session.output.confirm(f"{name} grows from {now} to {partitions} partitions: {why}", yes=yes)
    session.cluster.grow_topic(name, partitions)
    _say(session, {"topic": name, "partitions": partitions}, f"{name}: {partitions} partitions")


def _tell_refused(session: Session, done: list[str], refused: str, left: list[str], why: str, *, dry_run: bool) -> None:
    """Of several topics: which ones were created before one was refused, and which nobody has asked for since."""
    if session.output.as_json:
        if done or left:
            told = {"topics": done, "created": bool(done) and not dry_run, "refused": {refused: why}, "not_tried": left}
            session.output.result(told)
        return
    for name in left:
        session.output.line(f"{name}: not tried")


def _partitions(session: Session, topic: Topic) -> list[dict[str, Any]]:
    starts = session.cluster.offsets(topic.ids, "start")
    ends = session.cluster.offsets(topic.ids, "end")
    return [
        {
            "partition": one.id,
            "leader": one.leader,
            "replicas": list(one.replicas),
            "in_sync": list(one.in_sync),
            "start": starts[PartitionId(topic.name, one.id)],
            "end": ends[PartitionId(topic.name, one.id)],
        }
        for one in topic.partitions
    ]


def _listed(row: dict[str, Any]) -> list[object]:
    nodes = [",".join(map(str, row[part])) for part in ("replicas", "in_sync")]
    return [row["partition"], row["leader"], *nodes]


def _size(row: dict[str, Any]) -> list[Size]:
    return [Size(row["bytes"])] if "bytes" in row else []


def _say(session: Session, value: dict[str, Any], line: str) -> None:
    session.output.result(value) if session.output.as_json else session.output.line(line)


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise Refused(f"{text[:200]!r} is no regular expression: {error}", ExitCode.CONFIGURATION) from None
