"""`penstock configs`: look at, change and compare configs of topics, brokers, groups and clients' metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import typer

from gateway.cli.client.cluster import Cluster, ConfigEntry, ConfigKind, counted
from gateway.cli.client.session import DryRun, Session, connected
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(
    name="configs",
    help="Look at, change and compare configs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Kind = Annotated[
    Literal["topic", "broker", "group", "client-metrics"],
    typer.Argument(metavar="topic|broker|group|client-metrics", help="Of what."),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A topic's, group's or subscription's name, or a broker's id.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key. May be given repeatedly.")
]
Unset = Annotated[
    list[str] | None,
    typer.Option("--unset", metavar="KEY", help="Take a key back to its default. May be given repeatedly."),
]


@app.command()
@connected
def show(
    session: Session,
    kind: Kind,
    name: Name,
    changed: Annotated[bool, typer.Option("--changed", help="Show only keys that differ from the default.")] = False,
) -> None:
    """Show the configs of one topic, broker, group or client-metrics."""
    _check_there(session, kind, name)
    found = [one for one in session.cluster.configs(kind, name) if one.changed or not changed]
    if session.output.as_json:
        session.output.result(
            [
                {
                    "key": one.key,
                    "value": one.value,
                    "source": one.source,
                    "read_only": one.read_only,
                    "secret": one.secret,
                }
                for one in found
            ]
        )
        return
    rows = [(one.key, "[hidden]" if one.secret else one.value, one.origin) for one in found]
    session.output.table(("config", "value", "source"), rows)


@app.command()
@connected
def alter(
    session: Session, kind: Kind, name: Name, configs: Set = None, unset: Unset = None, dry_run: DryRun = False
) -> None:
    """Change configs of one topic, broker, group or client-metrics."""
    change(session, kind, name, configs, unset, dry_run=dry_run)


@app.command()
@connected
def diff(
    session: Session,
    kind: Kind,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Its name; without it all topics, or a broker of each.", show_default=False
        ),
    ] = None,
    *,
    other: Annotated[
        str, typer.Option("--with", metavar="PROFILE|HOST:PORT", help="The other cluster: a profile, or an address.")
    ],
    other_name: Annotated[
        str | None, typer.Option("--with-name", metavar="NAME", help="Its name there, if it is another.")
    ] = None,
) -> ExitCode:
    """Compare configs between two clusters; exit code 1 if they differ."""
    from gateway.cli.client.connection import Connection
    from gateway.cli.client.profiles import Profiles

    if name is None and (other_name is not None or kind not in ("topic", "broker")):
        raise Refused(f"name the {kind} to compare", ExitCode.CONFIGURATION)
    profiles = Profiles.read()
    there = profiles.of(other) if other in profiles.named else Connection(bootstrap=other)
    if name is not None:
        _check_there(session, kind, name)
    with contextlib.closing(session.open(there.checked())) as second:
        names = _names(session.cluster, kind) if name is None else [name]
        here = session.cluster.configs_of(kind, names)
        try:
            far = second.configs_of(kind, _names(second, kind) if name is None else [other_name or name])
        except Refused as refused:
            raise Refused(f"{other}: {refused}", refused.code) from None
    if name is None and kind == "topic":
        rows = _missing(here, far)
        for one in sorted(here.keys() & far.keys()):
            rows += _differences(one, here[one], far[one])
    else:
        rows = _differences(names[0], *here.values(), *far.values())
    if session.output.as_json:
        session.output.result([{"name": one, "key": key, "here": here, "there": far} for one, key, here, far in rows])
    elif rows:
        session.output.table((kind, "config", session.connection.bootstrap or "", other), rows)
    else:
        compared = f"{kind} {name}" if name is not None else counted(len(names), kind)
        session.output.line(f"{compared}: no difference")
    return ExitCode.UNEXPECTED if rows else ExitCode.CLEAN


Row = tuple[str, str, str | None, str | None]
"""Whose config, which one, its value here and there."""


def _names(cluster: Cluster, kind: ConfigKind) -> list[str]:
    """All topics, or one broker."""
    if kind == "broker":
        return [str(one.id) for one in cluster.info().brokers[:1]]
    return [one.name for one in cluster.topics() if not one.internal]


def _missing(here: Mapping[str, object], there: Mapping[str, object]) -> list[Row]:
    return [
        (name, "(exists)", "yes" if name in here else None, "yes" if name in there else None)
        for name in sorted(here.keys() ^ there.keys())
    ]


def _differences(name: str, here: Sequence[ConfigEntry], there: Sequence[ConfigEntry]) -> list[Row]:
    ours, theirs = ({entry.key: entry.value for entry in entries} for entries in (here, there))
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return [(name, key, ours.get(key), theirs.get(key)) for key in keys]


def change(
    session: Session,
    kind: ConfigKind,
    name: str,
    given: list[str] | None,
    unset: list[str] | None,
    *,
    dry_run: bool,
) -> None:
    """Set and unset keys, and tell what was and what is."""
    from gateway.cli.kafka.settings import assignments

    changes: dict[str, str | None] = {**assignments(given), **dict.fromkeys(unset or ())}
    if not changes:
        raise Refused("give --set KEY=VALUE or --unset KEY", ExitCode.CONFIGURATION)
    _check_there(session, kind, name)
    before = {one.key: one.value for one in session.cluster.configs(kind, name)}
    session.cluster.alter_configs(kind, name, changes, dry_run=dry_run)
    rows = [(key, before.get(key), "default" if value is None else value) for key, value in changes.items()]
    if session.output.as_json:
        told = [{"key": key, "before": old, "after": changes[key]} for key, old, _ in rows]
        session.output.result({"changed": not dry_run, "configs": told})
        return
    for key, old, new in rows:
        arrow = "would become" if dry_run else "is now"
        session.output.line(f"{name}: {key} was {'not set' if old is None else old}, {arrow} {new}")


def _check_there(session: Session, kind: ConfigKind, name: str) -> None:
    """Refuse a topic or broker that is not there in words that help on; groups may have configs before they are."""
    if kind == "topic":
        session.cluster.topics([name])
    elif kind == "broker" and name not in {str(one.id) for one in session.cluster.info().brokers}:
        ids = ", ".join(str(one.id) for one in session.cluster.info().brokers)
        raise Refused(f"there is no broker {name[:100]!r}; there are: {ids}", ExitCode.CONFIGURATION)
