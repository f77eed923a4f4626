"""What every tool over the REST API has in common: its flags, its gateway, its end.

Keeps: a token on the command line, which every user of the machine reads, is told of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.client.connection import Connection
from gateway.cli.client.rest import URL, Rest
from gateway.cli.client.session import Key, PasswordFile, ProfileName, with_flags
from gateway.cli.refused import Refused, run
from gateway.exits import ExitCode

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help=f"Address of the gateway's HTTP server. Default: the profile's, or {URL}."
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PENSTOCK_HTTP_TOKEN",
        metavar="TOKEN",
        help="The gateway's http.token, or a signed token. On the command line every user of this machine reads it.",
        show_default=False,
        show_envvar=True,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="PENSTOCK_HTTP_TOKEN_FILE",
        metavar="FILE",
        help="File with the token, instead of --token.",
        show_default=False,
        show_envvar=True,
    ),
]
User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="User, where http.auth has basic.")]
Ca = Annotated[str | None, typer.Option("--ca", metavar="FILE", help="Certificates (PEM) that vouch for the gateway.")]
Cert = Annotated[
    str | None, typer.Option("--cert", metavar="FILE", help="Own certificate (PEM), where http.auth has mtls.")
]

_SETTINGS: Final = {"user": User, "password_file": PasswordFile, "ca": Ca, "cert": Cert, "key": Key}
_FLAGS: Final = {
    "url": Url,
    "profile": ProfileName,
    "token": Token,
    "token_file": TokenFile,
    **_SETTINGS,
    "context": typer.Context,
}


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of the REST API and `--json`; its first parameter gets them as a `Rest`."""

    def taking(context: typer.Context, **given: Any) -> None:
        source = context.get_parameter_source("token")
        url, profile, token, file = (given.pop(name) for name in ("url", "profile", "token", "token_file"))
        settings = Connection(**{name: given.pop(name) for name in _SETTINGS})

        def do() -> ExitCode | None:
            if source is not None and source.name == "COMMANDLINE":
                told = "every user of this machine reads --token: use --token-file or PENSTOCK_HTTP_TOKEN"
                print(f"penstock: {told}", file=sys.stderr)
            shown = token if token is not None or file is None else token_in(file)
            command(Rest(url, settings, profile, shown), **given)
            return None

        sys.exit(run(do))

    return with_flags(command, taking, _FLAGS)


def token_in(file: Path) -> str:
    """Raises Refused."""
    from gateway.config.secrets import read_secret

    try:
        return read_secret(file)
    except ValueError as wrong:
        raise Refused(f"--token-file {file}: {wrong}", ExitCode.CONFIGURATION) from None
