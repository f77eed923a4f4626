"""`penstock tier2`: looking at long-term storage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.client.asking import User
from gateway.cli.client.session import PasswordFile, ProfileName
from gateway.cli.options import STORAGE, AsJson, Settings, TakeOver, Yes, configured
from gateway.cli.output import Output

if TYPE_CHECKING:
    from gateway.config.model import Config

app = typer.Typer(
    name="tier2",
    help="List the data in long-term storage, check it against the store's knowledge, or make a place there one's own.",
    short_help="Look at long-term storage, check it, take it over.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File with a signed token, where http.auth has bearer."),
]


@app.command("ls")
@configured(*STORAGE)
def list_chunks(
    settings: Settings,
    profile: ProfileName = None,
    user: User = None,
    password_file: PasswordFile = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List partitions and chunks, as the store knows them. Asks the gateway if one runs on the data directory."""
    loaded = settings.load()

    from gateway.cli import tier2_commands

    proof = _proof(loaded, profile, user, password_file, token_file)
    sys.exit(tier2_commands.run_ls(loaded, proof, as_json=as_json))


@app.command()
@configured(*STORAGE)
def verify(
    settings: Settings,
    profile: ProfileName = None,
    user: User = None,
    password_file: PasswordFile = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Read every chunk and compare it with the store's knowledge. Exit code 1 if something is missing or damaged."""
    loaded = settings.load()

    from gateway.cli import tier2_commands

    proof = _proof(loaded, profile, user, password_file, token_file)
    sys.exit(tier2_commands.run_verify(loaded, proof, as_json=as_json))


def _proof(
    config: Config, profile: str | None, user: str | None, password_file: str | None, token_file: Path | None
) -> Callable[[], str | None]:
    """Who asks a running gateway: as flags say, else by its own http.token, else as the profile says."""

    def proof() -> str | None:
        from gateway.cli.client.asking import token_in
        from gateway.cli.client.connection import Connection
        from gateway.cli.client.rest import URL, Rest
        from gateway.cli.refused import Refused
        from gateway.long_term.knowledge import CannotAsk

        flags = Connection(user=user, password_file=password_file)
        try:
            token = None if token_file is None else token_in(token_file)
            if token is None and user is None and config.http_token is not None:
                token = config.http_token.get_secret_value()
            return Rest(URL, flags, profile, token).authorization()
        except Refused as refused:
            raise CannotAsk(str(refused)) from None

    return proof


@app.command()
@configured(*STORAGE)
def init(settings: Settings, take_over: TakeOver = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Make a prefix this data directory's own: an empty one, or one that another copy of its data has taken.

    The previous data below the prefix, or the other copy's changes to it, are lost.
    """
    loaded = settings.load()

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_init(loaded, Output(as_json=as_json), take_over=take_over, yes=yes))
