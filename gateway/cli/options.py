"""Flags that several commands take, and the configuration that they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_type_hints

import typer

from gateway.exits import ExitCode

if TYPE_CHECKING:
    from gateway.config.conflicts import Origins
    from gateway.config.loading import Config

    Check = Callable[[Config, Origins], Iterable[str]]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file with configuration keys, or Kafka's server.properties. Stronger: PENSTOCK_* environment "
        "variables (log.sync.mode is PENSTOCK_LOG_SYNC_MODE), then flags.",
    ),
]
File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The same as --config: a TOML file, or Kafka's server.properties."),
]
"""For commands that take the flags of `serve`; pass it to `Settings.over`."""
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any configuration key; `penstock config` lists them. May be given repeatedly.",
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST:PORT[=ADVERTISED_HOST[:PORT]]",
        help="Address for Kafka clients, and the advertised address if clients must connect to "
        "another one. May be given repeatedly: a client gets the address of the listener "
        "that it used. Port 0 picks a free port, localhost means IPv4 and IPv6, an IPv6 "
        "address stands in brackets. Default: localhost:9092.",
        show_default=False,
    ),
]
Http = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|off",
        help="Address of /healthz, /readyz, /metrics and the API. Default: localhost:9094.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Directory of all data; made if it does not exist. Default: data.",
        show_default=False,
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Processes that share the work, each with a port of its own: auto is one for each processor. Default: 1.",
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="etcd://HOST:PORT,HOST:PORT/NAME",
        help="Serve as one node of the cluster of that name, whose nodes meet in etcd. Their log lies in --tier2.",
        show_default=False,
    ),
]
NodeId = Annotated[
    str | None,
    typer.Option(metavar="N", help="This node's id, its own in a cluster. Default: 1.", show_default=False),
]
Tier2 = Annotated[
    str | None,
    typer.Option(
        metavar="s3://BUCKET/PREFIX|file:PATH|off",
        help="Long-term storage, for sealed chunks of the log. Default: file, a directory in the data directory.",
        show_default=False,
    ),
]
Tier2Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="http(s)://HOST[:PORT] of MinIO or another S3 store. Credentials come from PENSTOCK_TIER2_ACCESS_KEY and "
        "PENSTOCK_TIER2_SECRET_KEY, the configuration, a file, or the usual AWS names.",
        show_default=False,
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Take over long-term storage even if its owner, another gateway, is alive: that gateway ends.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")]


class Flag(NamedTuple):
    """A flag of its own for one configuration key."""

    key: str
    option: str
    type: Any


_FLAGS: Final = {
    "listen": Flag("listeners", "--listen", Listen),
    "http": Flag("http.listen", "--http", Http),
    "data_dir": Flag("data.dir", "--data-dir", DataDir),
    "workers": Flag("workers", "--workers", Workers),
    "cluster": Flag("cluster", "--cluster", Cluster),
    "node_id": Flag("node.id", "--node-id", NodeId),
    "tier2": Flag("tier2", "--tier2", Tier2),
    "tier2_endpoint": Flag("tier2.endpoint", "--tier2-endpoint", Tier2Endpoint),
}
"""The flags by the name of their parameter, in the order of help texts."""

SERVING: Final = tuple(_FLAGS)
STORAGE: Final = ("data_dir", "tier2", "tier2_endpoint")
_LAST: Final = "as_json"
"""The parameter that help texts list after `--set`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a command line that makes the configuration. `flags`: the given values, by parameter."""

    file: Path | None
    assignments: Sequence[str]
    flags: Mapping[str, object]

    def over(self, file: Path | None) -> Settings:
        """The same with a file named without a flag. Two files end the command."""
        if file is None:
            return self
        if self.file is not None:
            typer.echo(f"penstock: two configuration files, {self.file} and {file}: name one", err=True)
            raise typer.Exit(ExitCode.CONFIGURATION)
        return replace(self, file=file)

    def read(self, check: Check | None = None) -> Config:
        """The configuration. Raises ConfigError with every problem."""
        from gateway.config.conflicts import conflicts
        from gateway.config.kafka_names import of_kafkas_image
        from gateway.config.layers import Given, trimmed
        from gateway.config.loading import FIELDS, left_out_of, load

        given = {
            _FLAGS[name].key: Given(trimmed(value), _FLAGS[name].option)
            for name, value in self.flags.items()
            if value not in (None, [])
        }
        for line in (
            *(f"{self.file}: {line}" for line in left_out_of(self.file)),
            *of_kafkas_image(os.environ, FIELDS),
        ):
            typer.echo(f"penstock: {line}", err=True)
        return load(self.file, assignments=self.assignments, flags=given, check=check or conflicts)

    def load(self, check: Check | None = None) -> Config:
        """The configuration. A wrong one ends the command, with every problem on standard error. `check`: what has to
        go together, for a command that does not serve."""
        from gateway.config.layers import ConfigError

        try:
            return self.read(check)
        except ConfigError as exc:
            for problem in exc.problems:
                typer.echo(f"penstock: {problem}", err=True)
            raise typer.Exit(ExitCode.CONFIGURATION) from exc


def configured(*flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags that make a configuration: `--config`, these, and `--set`.

    The command's first parameter gets them as `Settings`; its others are flags of its own. The configuration is not
    loaded before the command asks for it, so a command may do other work first.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def taking(config: Path | None, assignments: list[str] | None, **given: object) -> None:
            command(Settings(config, assignments or (), {name: given.pop(name) for name in flags}), **given)

        types = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=types[parameter.name], kind=Parameter.KEYWORD_ONLY)
            for parameter in list(signature(command).parameters.values())[1:]
        ]
        parameters = [
            _parameter("config", ConfigFile),
            *(_parameter(name, _FLAGS[name].type) for name in flags),
            *(one for one in own if one.name != _LAST),
            _parameter("assignments", Assignments),
            *(one for one in own if one.name == _LAST),
        ]
        taking.__name__, taking.__doc__ = command.__name__, command.__doc__
        taking.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        taking.__annotations__ = {one.name: one.annotation for one in parameters}
        return taking

    return decorate


def _parameter(name: str, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
