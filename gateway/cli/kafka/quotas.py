"""`penstock quotas`: list and set quotas of users, client ids and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from gateway.cli.client.session import Session, connected
from gateway.cli.options import Yes
from gateway.cli.output import Size
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(
    name="quotas",
    help="List and set quotas of users, client ids and addresses.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_KINDS = ("user", "client-id", "ip")
Entity = Annotated[
    list[str],
    typer.Argument(metavar="KIND=NAME...", help="user=ann, client-id=app, ip=192.0.2.1; a kind alone is its default."),
]


@app.command("list")
@connected
def list_quotas(session: Session) -> None:
    """List all quotas."""
    quotas = session.cluster.quotas()
    if session.output.as_json:
        session.output.result([{"entity": dict(one.entity), "quotas": dict(one.values)} for one in quotas])
        return
    rows = [(_named(one.entity), key, _shown(key, value)) for one in quotas for key, value in one.values.items()]
    session.output.table(("entity", "quota", "value"), rows)


@app.command("set")
@connected
def set_quotas(
    session: Session,
    entity: Entity,
    values: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="producer_byte_rate=10MiB, consumer_byte_rate, request_percentage, ... Repeatable.",
        ),
    ],
) -> None:
    """Set quotas of one entity."""
    from gateway.cli.kafka.settings import assignments
    from gateway.config.quantities import size_of

    whose = _entity(entity)
    wanted: dict[str, float | None] = {}
    for key, text in assignments(values).items():
        size = size_of(text) if key.endswith("byte_rate") else None
        try:
            wanted[key] = float(text) if size is None else float(size)
        except ValueError:
            raise Refused(f"--set {key[:100]}={text[:100]}: not a number", ExitCode.CONFIGURATION) from None
    session.cluster.set_quotas(whose, wanted)
    if session.output.as_json:
        session.output.result({"entity": whose, "quotas": wanted})
    else:
        told = (f"{key} = {_shown(key, value)}" for key, value in wanted.items() if value is not None)
        session.output.line(f"{_named(whose)}: {', '.join(told)}")


@app.command()
@connected
def delete(
    session: Session,
    entity: Entity,
    keys: Annotated[
        list[str] | None, typer.Option("--quota", metavar="KEY", help="Only this one; else all. Repeatable.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Delete quotas of one entity."""
    whose = _entity(entity)
    there = next((one for one in session.cluster.quotas() if dict(one.entity) == whose), None)
    gone = keys or (list(there.values) if there is not None else [])
    if not gone:
        raise Refused(f"{_named(whose)} has no quotas")
    session.output.confirm(f"{_named(whose)}: {', '.join(gone)} bound it no longer", yes=yes)
    session.cluster.set_quotas(whose, dict.fromkeys(gone))
    if session.output.as_json:
        session.output.result({"entity": whose, "deleted": gone})
    else:
        session.output.line(f"{_named(whose)}: {', '.join(gone)} deleted")


def _entity(given: list[str]) -> dict[str, str | None]:
    entity: dict[str, str | None] = {}
    for text in given:
        kind, equals, name = text.partition("=")
        if kind not in _KINDS:
            raise Refused(
                f"{text[:200]!r}: allowed: {', '.join(f'{one}=NAME' for one in _KINDS)}", ExitCode.CONFIGURATION
            )
        entity[kind] = name if equals else None
    return entity


def _shown(key: str, value: float) -> str:
    """The whole number, with what it is for people: rounded, another could not be set again from it."""
    text = str(int(value)) if value.is_integer() else repr(value)
    return f"{text} ({Size(int(value))}/s)" if key.endswith("byte_rate") and value >= 1024 else text


def _named(entity: Mapping[str, str | None]) -> str:
    return " ".join(f"{kind}={'(default)' if name is None else name}" for kind, name in entity.items())
