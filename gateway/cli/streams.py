"""`penstock streams`: looking at streams, and cutting them by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import AsJson
from gateway.exits import ExitCode

app = typer.Typer(
    name="streams",
    short_help="Look at streams and segments; split and merge them.",
    help="Look at streams and their segments, split and merge them by hand. Asks a running gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Option(metavar="URL", help="Address of the gateway's HTTP server.")]
URL = "http://localhost:9094"
Token = Annotated[
    str | None,
    typer.Option(
        envvar="PENSTOCK_HTTP_TOKEN",
        metavar="TOKEN",
        help="The gateway's http.token, if it has one. On the command line every user of this machine reads it.",
        show_default=False,
        show_envvar=True,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="PENSTOCK_HTTP_TOKEN_FILE",
        metavar="FILE",
        help="File with the gateway's http.token, instead of --token.",
        show_default=False,
        show_envvar=True,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The stream: a topic's name.")]


@app.command("ls")
def list_streams(url: Url = URL, as_json: AsJson = False) -> None:
    """List streams with their segments, sizes and rates."""
    from gateway.cli import streams_client as streams_commands

    sys.exit(streams_commands.run_ls(url, as_json=as_json))


@app.command()
def show(name: Name, url: Url = URL, as_json: AsJson = False) -> None:
    """Draw a stream's epochs as a picture: time goes to the right, the key space upwards."""
    from gateway.cli import streams_client as streams_commands

    sys.exit(streams_commands.run_show(url, name, as_json=as_json))


@app.command()
def scale(
    context: typer.Context,
    name: Name,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="ID[@SLOT,...]",
            help="Cut this segment so that each named slot begins a new one. Without slots, the cut halves the load.",
        ),
    ] = None,
    merge: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Make these neighbours one segment.")] = None,
    url: Url = URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Split a segment, or merge neighbours. Clients notice nothing."""
    from gateway.cli import streams_client as streams_commands

    shown = _token(context, token, token_file)
    sys.exit(streams_commands.run_scale(url, name, split=split, merge=merge, token=shown, as_json=as_json))


@app.command()
def seal(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")] = False,
    url: Url = URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """End a stream for good: it can be read, and takes no more records (producers get POLICY_VIOLATION).

    That cannot be undone, so the command asks first.
    """
    from gateway.cli import streams_client as streams_commands

    shown = _token(context, token, token_file)
    sys.exit(streams_commands.run_seal(url, name, yes=yes, token=shown, as_json=as_json))


def _token(context: typer.Context, token: str | None, file: Path | None) -> str | None:
    """The token for the gateway: --token is stronger than the file."""
    from gateway.config.secrets import read_secret

    source = context.get_parameter_source("token")
    if source is not None and source.name == "COMMANDLINE":
        typer.echo(
            "penstock: every user of this machine reads --token: use --token-file or PENSTOCK_HTTP_TOKEN", err=True
        )
    if token is not None or file is None:
        return token
    try:
        return read_secret(file)
    except ValueError as exc:
        typer.echo(f"penstock: --token-file {file}: {exc}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from None
