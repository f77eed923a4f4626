"""Flags that several commands take, and the configuration that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.exits import ExitCode

if TYPE_CHECKING:
    from gateway.config.layers import Given
    from gateway.config.loading import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file with configuration keys. Stronger: PENSTOCK_* environment variables "
        "(log.sync.mode is PENSTOCK_LOG_SYNC_MODE), then flags.",
    ),
]
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
        help="Address for Kafka clients, and what they are told to connect to if that is "
        "another one. May be given repeatedly: a client is told the address of the listener "
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
        help="Where everything is kept; made if it is not there. Default: data.",
        show_default=False,
    ),
]
Tier2 = Annotated[
    str | None,
    typer.Option(
        metavar="s3://BUCKET/PREFIX|file:PATH|off",
        help="Long-term storage, where sealed chunks of the log go. Default: file, a directory in the data directory.",
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
        help="Take long-term storage over although another gateway that owns it is alive: that one ends.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def load_config(file: Path | None, assignments: list[str] | None, flags: dict[str, Given]) -> Config:
    from gateway.config.layers import ConfigError
    from gateway.config.loading import load

    try:
        return load(file, assignments=assignments or (), flags=flags)
    except ConfigError as exc:
        for problem in exc.problems:
            typer.echo(f"penstock: {problem}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from exc


_FLAGS: Final = {
    "listen": ("listeners", "--listen"),
    "http": ("http.listen", "--http"),
    "data_dir": ("data.dir", "--data-dir"),
    "tier2": ("tier2", "--tier2"),
    "tier2_endpoint": ("tier2.endpoint", "--tier2-endpoint"),
}
"""Configuration keys that have a flag of their own."""


def flags_of(**given: object) -> dict[str, Given]:
    from gateway.config.layers import Given, trimmed

    return {
        _FLAGS[name][0]: Given(trimmed(value), _FLAGS[name][1])
        for name, value in given.items()
        if value not in (None, [])
    }
