"""`penstock profile`: connections with names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.client.asking import Url
from gateway.cli.client.session import (
    Bootstrap,
    Ca,
    Cert,
    Key,
    PasswordFile,
    SaslMechanism,
    SecurityProtocol,
    User,
)
from gateway.cli.options import AsJson, Yes
from gateway.cli.output import Output
from gateway.cli.refused import Refused, run
from gateway.exits import ExitCode

if TYPE_CHECKING:
    from gateway.cli.client.profiles import Profiles

app = typer.Typer(
    name="profile",
    help="Keep connections under names.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")]
Maybe = Annotated[str | None, typer.Argument(metavar="NAME", help="The profile's name; the current one without.")]


@app.command()
def create(
    name: Name,
    bootstrap: Bootstrap = None,
    security_protocol: SecurityProtocol = None,
    sasl_mechanism: SaslMechanism = None,
    user: User = None,
    password_file: PasswordFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Keep these flags under a name, and use it from now on."""
    from gateway.cli.client.connection import Connection
    from gateway.cli.client.profiles import check_name
    from gateway.cli.client.rest import parts_of

    files = [None if one is None else _absolute(one) for one in (password_file, ca, cert, key)]
    password, authority, certificate, secret = files
    given = Connection(
        bootstrap, security_protocol, sasl_mechanism, user, password, authority, certificate, secret, url=url
    )

    def make(profiles: Profiles) -> None:
        check_name(name)
        if name in profiles.named:
            raise Refused(f"there is a profile {name!r} already: delete it first", ExitCode.CONFIGURATION)
        given.checked()
        if url is not None and "@" in parts_of(url).netloc:
            why = "a profile holds no secret, and asks as --user does: leave out what is in front of the @"
            raise Refused(f"--url: {why}", ExitCode.CONFIGURATION)
        profiles.named[name] = given
        profiles.current = name
        profiles.write()
        _say(Output(as_json=as_json), name, given, f"{name}: kept in {profiles.path}, and in use")

    _do(make)


@app.command()
def use(name: Name, as_json: AsJson = False) -> None:
    """Use a profile from now on."""

    def switch(profiles: Profiles) -> None:
        given = profiles.of(name)
        profiles.current = name
        profiles.write()
        _say(Output(as_json=as_json), name, given, f"{name}: in use")

    _do(switch)


@app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List profiles; the one in use has a star."""

    def show_all(profiles: Profiles) -> None:
        output = Output(as_json=as_json)
        if as_json:
            output.result([_told(name, one) | {"current": name == profiles.current} for name, one in _all(profiles)])
            return
        rows = [
            ("*" if name == profiles.current else "", name, one.bootstrap, one.user, one.url)
            for name, one in _all(profiles)
        ]
        output.table(("", "profile", "bootstrap", "user", "url"), rows)

    _do(show_all)


@app.command()
def show(name: Maybe = None, as_json: AsJson = False) -> None:
    """Show a profile. It names files of secrets and holds none."""

    def show_one(profiles: Profiles) -> None:
        wanted = name or profiles.current
        if wanted is None:
            raise Refused("no profile is in use: `penstock profile create` makes one", ExitCode.CONFIGURATION)
        told = _told(wanted, profiles.of(wanted))
        output = Output(as_json=as_json)
        output.result(told) if as_json else output.fields(told)

    _do(show_one)


@app.command()
def delete(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a profile; files of secrets stay."""

    def remove(profiles: Profiles) -> None:
        profiles.of(name)
        output = Output(as_json=as_json)
        output.confirm(f"profile {name}: deleted", yes=yes)
        gone = profiles.named.pop(name)
        profiles.current = None if profiles.current == name else profiles.current
        profiles.write()
        _say(output, name, gone, f"{name}: deleted")

    _do(remove)


def _do(work: Callable[[Profiles], None]) -> None:
    def on_the_file() -> None:
        from gateway.cli.client.profiles import Profiles

        work(Profiles.read())

    sys.exit(run(on_the_file))


def _all(profiles: Profiles) -> list[tuple[str, Any]]:
    return sorted(profiles.named.items())


def _told(name: str, connection: Any) -> dict[str, Any]:
    return {"name": name} | {key: value for key, value in asdict(connection).items() if value is not None}


def _say(output: Output, name: str, connection: Any, line: str) -> None:
    output.result(_told(name, connection)) if output.as_json else output.line(line)


def _absolute(path: str) -> str:
    from pathlib import Path

    return str(Path(path).expanduser().absolute())
