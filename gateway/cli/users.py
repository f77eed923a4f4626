"""`penstock users`: the first users, made while no gateway runs; later ones by `penstock credentials`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.cli.options import AsJson, Settings, Yes, configured
from gateway.cli.output import Output

app = typer.Typer(
    name="users",
    help="Add, list and delete the users of SCRAM while no gateway runs on the data directory. While one runs: "
    "`penstock credentials`, or kafka-configs.sh.",
    short_help="Add, list and delete users of SCRAM while no gateway runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DATA: Final = ("data_dir",)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name, without `User:`.", show_default=False)]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File that holds the password alone; a final line break is dropped. - is standard input. Without it the "
        "password is asked for.",
        show_default=False,
    ),
]
Mechanism = Annotated[str, typer.Option(metavar="MECHANISM", help="SCRAM-SHA-256 or SCRAM-SHA-512.")]
Iterations = Annotated[int, typer.Option(min=4096, max=16384, help="Hashes that a guess of the password costs.")]


@app.command()
@configured(*DATA)
def add(
    settings: Settings,
    name: Name,
    password_file: PasswordFile = None,
    mechanism: Mechanism = "SCRAM-SHA-512",
    iterations: Iterations = 4096,
    as_json: AsJson = False,
) -> None:
    """Add a user, or give one a new password. It counts from the next start on."""
    loaded = settings.load()

    from gateway.cli import users_commands

    told = Output(as_json=as_json)
    sys.exit(users_commands.run_add(loaded, name, password_file, mechanism.upper(), iterations, told))


@app.command()
@configured(*DATA)
def delete(settings: Settings, name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a user's credentials, of every mechanism. It counts from the next start on."""
    loaded = settings.load()

    from gateway.cli import users_commands

    sys.exit(users_commands.run_delete(loaded, name, Output(as_json=as_json), yes=yes))


@app.command("list")
@configured(*DATA)
def list_users(settings: Settings, as_json: AsJson = False) -> None:
    """List users, with their mechanisms and iterations."""
    loaded = settings.load()

    from gateway.cli import users_commands

    sys.exit(users_commands.run_list(loaded, as_json=as_json))


@app.command("hash")
def hash_password(
    name: Name, password_file: PasswordFile = None, iterations: Iterations = 4096, as_json: AsJson = False
) -> None:
    """Print a line for sasl.plain.users.file."""
    from gateway.cli import users_commands

    sys.exit(users_commands.run_hash(name, password_file, iterations, Output(as_json=as_json)))
