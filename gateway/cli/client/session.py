"""What every tool over Kafka's protocol has in common: its flags, its cluster, its end.

Keeps: a client library is imported when a command first asks for its cluster, so help and refusals need none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from gateway.cli.client.connection import Connection
from gateway.cli.options import AsJson
from gateway.cli.output import Output
from gateway.cli.refused import Refused, run

if TYPE_CHECKING:
    from gateway.cli.client.cluster import Cluster
    from gateway.exits import ExitCode


Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap",
        metavar="HOST:PORT,...",
        help="Kafka addresses to begin at. Default: localhost:9092.",
        show_default=False,
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile", metavar="NAME", help="Named connection instead of the current one; see `penstock profile`."
    ),
]
SecurityProtocol = Annotated[
    str | None,
    typer.Option(
        "--security-protocol",
        metavar="NAME",
        help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. Default: what the other flags need.",
    ),
]
SaslMechanism = Annotated[
    str | None,
    typer.Option(
        "--sasl-mechanism",
        metavar="NAME",
        help="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Default: SCRAM-SHA-512.",
        show_default=False,
    ),
]
User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="User for SASL.")]
PasswordFile = Annotated[
    str | None,
    typer.Option("--password-file", metavar="FILE", help="File whose first line is the user's password."),
]
Ca = Annotated[str | None, typer.Option("--ca", metavar="FILE", help="Certificates (PEM) that vouch for the brokers.")]
Cert = Annotated[
    str | None, typer.Option("--cert", metavar="FILE", help="Own certificate (PEM), for brokers that ask for one.")
]
Key = Annotated[str | None, typer.Option("--key", metavar="FILE", help="Private key (PEM) of --cert.")]

_FLAGS: Final = {
    "bootstrap": Bootstrap,
    "profile": ProfileName,
    "security_protocol": SecurityProtocol,
    "sasl_mechanism": SaslMechanism,
    "user": User,
    "password_file": PasswordFile,
    "ca": Ca,
    "cert": Cert,
    "key": Key,
}
"""The flags of a connection by the name of their parameter."""
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


class Session:
    """One command's cluster and output."""

    def __init__(self, flags: Connection, profile: str | None, output: Output) -> None:
        self._flags = flags
        self._profile = profile
        self.output = output
        self._opened = False
        self._profile_used: str | None = None

    @cached_property
    def connection(self) -> Connection:
        """The settings that hold. Raises Refused."""
        from gateway.cli.client.profiles import Profiles

        profiles = Profiles.read()
        self._profile_used = self._profile or profiles.current
        return self._flags.over(profiles.of(self._profile)).checked()

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster, connected at its first use. Raises Refused, with the profile: it may be forgotten."""
        connection = self.connection
        try:
            return self.open(connection)
        except Refused as refused:
            if self._profile_used is None:
                raise
            whose = f"profile {self._profile_used!r} is in use, `penstock profile list` shows all"
            raise Refused(f"{refused}; {whose}", refused.code) from refused

    def open(self, connection: Connection) -> Cluster:
        """Another cluster, which the caller closes."""
        from gateway.cli.client.kafka_python import KafkaPythonCluster

        return KafkaPythonCluster(connection)

    def close(self) -> None:
        if "cluster" in self.__dict__:
            self.cluster.close()


def connected(command: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Give a command the flags of a connection and `--json`; its first parameter gets them as a `Session`."""

    def taking(**given: Any) -> None:
        profile = given.pop("profile")
        settings = {name: given.pop(name) for name in _FLAGS if name != "profile"}
        session = Session(Connection(**settings), profile, Output(as_json=given.pop("as_json")))

        def do() -> ExitCode | None:
            try:
                return command(session, **given)
            finally:
                session.close()

        sys.exit(run(do))

    return with_flags(command, taking, _FLAGS)


def with_flags(
    command: Callable[..., Any], taking: Callable[..., None], flags: Mapping[str, Any]
) -> Callable[..., None]:
    """Give `taking` the parameters of a command but its first, then `--json` and these flags."""
    types = get_type_hints(command, include_extras=True)
    parameters = [
        parameter.replace(annotation=types[parameter.name], kind=Parameter.KEYWORD_ONLY)
        for parameter in list(signature(command).parameters.values())[1:]
        if parameter.name != "as_json"
    ]
    parameters.append(Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson))
    for name, annotation in flags.items():
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    taking.__name__, taking.__doc__ = command.__name__, command.__doc__
    taking.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {one.name: one.annotation for one in parameters}
    return taking
