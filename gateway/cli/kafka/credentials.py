"""`penstock credentials`: SCRAM passwords of users of a running cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.client.session import Session, connected
from gateway.cli.options import Yes

app = typer.Typer(
    name="credentials",
    help="List, add and delete the users of SCRAM of a running cluster. For the first one, before a start: "
    "`penstock users`.",
    short_help="List, add and delete users of SCRAM of a running cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ITERATIONS = 8192
Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
Mechanism = Annotated[Literal["SCRAM-SHA-256", "SCRAM-SHA-512"], typer.Option("--mechanism", help="Which password.")]


@app.command("list")
@connected
def list_users(session: Session) -> None:
    """List users with their mechanisms."""
    users = session.cluster.users()
    if session.output.as_json:
        session.output.result([{"user": one.name, "mechanisms": dict(one.mechanisms)} for one in users])
        return
    rows = [(one.name, mechanism, count) for one in users for mechanism, count in one.mechanisms.items()]
    session.output.table(("user", "mechanism", "iterations"), rows)


@app.command()
@connected
def add(
    session: Session,
    name: Name,
    file: Annotated[
        Path | None,
        typer.Option(
            "--new-password-file",
            metavar="FILE",
            help="File whose first line is the new password; without it, the terminal asks.",
        ),
    ] = None,
    mechanism: Mechanism = "SCRAM-SHA-512",
    iterations: Annotated[
        int, typer.Option("--iterations", metavar="N", min=4096, max=16384, help="Rounds of the hash.")
    ] = ITERATIONS,
) -> None:
    """Add a user, or give one another password."""
    from gateway.cli.client.connection import secret_in

    password = secret_in(file) if file is not None else _asked(name)
    session.cluster.set_user(name, mechanism, password, iterations)
    if session.output.as_json:
        session.output.result({"user": name, "mechanism": mechanism, "iterations": iterations})
    else:
        session.output.line(f"{name}: may log in with {mechanism}")


@app.command()
@connected
def delete(session: Session, name: Name, mechanism: Mechanism = "SCRAM-SHA-512", yes: Yes = False) -> None:
    """Delete a user's password of one mechanism."""
    session.output.confirm(f"{name} can no longer log in with {mechanism}", yes=yes)
    session.cluster.delete_user(name, mechanism)
    if session.output.as_json:
        session.output.result({"deleted": name, "mechanism": mechanism})
    else:
        session.output.line(f"{name}: {mechanism} deleted")


def _asked(name: str) -> str:
    import getpass
    import sys

    from gateway.cli.refused import Refused
    from gateway.exits import ExitCode

    if not sys.stdin.isatty():
        raise Refused("give --new-password-file where there is no terminal to ask at", ExitCode.CONFIGURATION)
    password = getpass.getpass(f"New password of {name}: ", sys.stderr)
    if password != getpass.getpass("Again: ", sys.stderr):
        raise Refused("the two differ; nothing was changed", ExitCode.CONFIGURATION)
    return password
