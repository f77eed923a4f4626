"""The `penstock` command.

Keeps: what a sub-command does not need is not imported for it; a ready gateway is a matter of a second.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway import __version__
from gateway.exits import ExitCode

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.config_layers import Given

app = typer.Typer(
    name="penstock",
    help="A Kafka-compatible gateway over an elastic, tiered segment store.",
    epilog="Exit codes: 0 clean, 1 defect, 2 configuration, 3 lock or port taken, 4 corruption, 5 storage failure.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def penstock(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A Kafka-compatible gateway over an elastic, tiered segment store."""


@app.command()
def serve(
    config: ConfigFile = None,
    listen: Listen = None,
    http: Http = None,
    data_dir: DataDir = None,
    tier2: Tier2 = None,
    tier2_endpoint: Tier2Endpoint = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Written once clients are served: JSON with pid, kafka, http, data_dir, "
            "cluster_id, replayed_bytes. Removed at start.",
        ),
    ] = None,
    assignments: Assignments = None,
) -> None:
    """Run the gateway until SIGINT or SIGTERM; a second signal ends it at once."""
    gc.disable()  # until the gateway is ready: nearly everything that is made now stays
    flags = _flags(listen=listen, http=http, data_dir=data_dir, tier2=tier2, tier2_endpoint=tier2_endpoint)
    loaded = _load(config, assignments, flags)

    from gateway import process

    sys.exit(process.run(loaded, ready_file))


@app.command()
def recover(
    config: ConfigFile = None,
    listen: Listen = None,
    http: Http = None,
    data_dir: DataDir = None,
    tier2: Tier2 = None,
    tier2_endpoint: Tier2Endpoint = None,
    ready_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Has no effect here.")] = None,
    assignments: Assignments = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print {topics: [{name, partitions: [{id, start, end}]}], groups} instead."),
    ] = False,
) -> None:
    """Make a data directory from long-term storage, when the one that was is gone. Takes the flags of `serve`."""
    flags = _flags(listen=listen, http=http, data_dir=data_dir, tier2=tier2, tier2_endpoint=tier2_endpoint)
    loaded = _load(config, assignments, flags)

    from gateway import recovering

    sys.exit(recovering.run(loaded, as_json=as_json))


@app.command("config")
def show_config(
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead.")] = False,
) -> None:
    """Show every configuration key: value, default, source, type, meaning."""
    loaded = _load(config, assignments, {})

    from gateway.config import describe

    rows = describe(loaded)
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=2))
        return

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        line = Text.assemble((str(row["key"]), "bold"), " = ", (_shown(row["value"]), "green"), f"  ({row['source']})")
        console.print(line)
        console.print(Text(f"    {row['doc']} Default: {_shown(row['default'])}.", style="dim"))


@app.command()
def version() -> None:
    """Show the version."""
    _print_version(True)


def main() -> None:
    """The console script."""
    # Where hypothesis is installed, kio imports it to register strategies: up to three seconds at
    # every start, and files in the working directory. A gateway draws no examples.
    sys.modules["hypothesis"] = None  # type: ignore[assignment]
    try:
        app()
    except KeyboardInterrupt:
        # Interrupted before the gateway took over the signals: nothing was started.
        os._exit(128 + 2)


def _load(file: Path | None, assignments: list[str] | None, flags: dict[str, Given]) -> Config:
    from gateway.config import load
    from gateway.config_layers import ConfigError

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


def _flags(**given: object) -> dict[str, Given]:
    from gateway.config_layers import Given

    return {_FLAGS[name][0]: Given(value, _FLAGS[name][1]) for name, value in given.items() if value not in (None, [])}


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
