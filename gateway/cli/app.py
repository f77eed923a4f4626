"""The `penstock` command.

Keeps: a sub-command imports only the modules that it needs; a gateway is ready within about a second.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Final, cast

import typer

from gateway import __version__
from gateway.cli.options import SERVING, AsJson, File, Settings, TakeOver, configured
from gateway.exits import ExitCode

app = typer.Typer(
    name="penstock",
    help="A Kafka-compatible gateway over an elastic, tiered segment store.",
    epilog="Exit codes: 0 done, or stopped cleanly; 1 not done, or something was found (differences, damage, "
    "faults); of `serve` a defect; 2 configuration, command line or rights; 3 directory, port or storage taken; "
    "4 corruption; 5 storage failure.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # rich's tracebacks would print the values of variables, secrets among them
    pretty_exceptions_show_locals=False,
)


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


@app.command(short_help="Run the gateway until SIGINT or SIGTERM.")
@configured(*SERVING)
def serve(
    settings: Settings,
    file: File = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Written once clients are served: JSON with pid, kafka, http, data_dir, "
            "cluster_id, replayed_bytes. Removed at start.",
        ),
    ] = None,
    take_over: TakeOver = False,
) -> None:
    """Run the gateway until SIGINT or SIGTERM; a second signal ends it at once."""
    gc.disable()  # until the gateway is ready: nearly all objects made now stay
    loaded = settings.over(file).load()
    if loaded.workers != 1:
        gc.enable()
        from gateway.process import workers

        sys.exit(workers.run(loaded, sys.argv[2:], ready_file, take_over=take_over))

    from gateway.process import serving as process

    sys.exit(process.run(loaded, ready_file, take_over=take_over))


@app.command(hidden=True)
@configured(*SERVING)
def worker(
    settings: Settings,
    file: File = None,
    ready_file: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    take_over: TakeOver = False,
    assignment: Annotated[str, typer.Option(metavar="JSON")] = "",
) -> None:
    """One worker of `penstock serve --workers`, which starts it with its own flags."""
    gc.disable()
    if not assignment:
        typer.echo("penstock: workers are started by `penstock serve --workers N`, not by hand", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION)
    loaded = settings.over(file).load()

    from gateway.process import workers

    sys.exit(workers.run_worker(loaded, assignment))


@app.command(short_help="Make a data directory from long-term storage.")
@configured(*SERVING)
def recover(
    settings: Settings,
    file: File = None,
    ready_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Has no effect here.")] = None,
    take_over: TakeOver = False,
    drill: Annotated[
        bool,
        typer.Option(
            "--drill",
            help="Make a copy to look at: started with `serve`, it reads from long-term storage, writes only "
            "below its data directory, and leaves the gateway that owns the storage alone.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print {topics: [{name, partitions: [{id, start, end}]}], groups} instead."),
    ] = False,
) -> None:
    """Make a data directory from long-term storage when the old one is lost. Takes the flags of `serve`."""
    loaded = settings.over(file).load()

    from gateway.cli import recover as recovering

    sys.exit(recovering.run(loaded, as_json=as_json, take_over=take_over, drill=drill))


@app.command("config", short_help="Show every configuration key and its meaning.")
@configured()
def show_config(
    settings: Settings,
    pattern: Annotated[str, typer.Argument(metavar="TEXT", help="Only keys with this text in name or meaning.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only keys that something sets.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print a commented file to start from.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead.")] = False,
) -> None:
    """Show every configuration key: value, default, source, type, meaning."""
    loaded = settings.load()

    from gateway.config.listing import as_toml_file, chosen
    from gateway.config.loading import describe

    rows = chosen(describe(loaded), pattern, changed=changed)
    if as_toml:
        typer.echo(as_toml_file(rows), nl=False)
        return
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=2))
        return

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    section = None
    for row in rows:
        if row["section"] != section:
            section = row["section"]
            console.print(Text(f"\n# {section}\n", style="bold cyan"))
        line = Text.assemble((str(row["key"]), "bold"), " = ", (_shown(row["value"]), "green"), f"  ({row['source']})")
        console.print(line)
        console.print(Text(f"    {row['doc']} Default: {_shown(row['default'])}.", style="dim"))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the version."""
    if as_json:
        typer.echo(f'{{"version": "{__version__}"}}')
        return
    _print_version(True)


def main() -> None:
    """The console script."""
    # Where hypothesis is installed, kio imports it to register strategies: up to three seconds at
    # every start, and files in the working directory. A gateway draws no examples.
    sys.modules["hypothesis"] = None  # type: ignore[assignment]
    if sys.argv[1:2] != ["serve"]:  # whose caller waits for the start
        add_tools(*(name for name in sys.argv[1:2] if name in TOOLS))
    try:
        sys.exit(_said(app))
    except KeyboardInterrupt:
        # Interrupted before the gateway took over the signals: nothing was started.
        os._exit(128 + 2)


_Misused: Final = cast(
    "type[typer.BadParameter]", next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
)
"""A command line that cannot be understood; typer has no public name for it, only for a part."""


_UNKNOWN: Final = re.compile(r"No such (command|option):? '?([^\s']+)")


def _said(command: typer.Typer) -> int | None:
    """The exit code of the command; what cannot be understood is said as everything else is, in one line."""
    try:
        code: int | None = command(standalone_mode=False)
    except _Misused as error:
        told = " ".join(error.format_message().replace("Value error, ", "").split("\n"))
        if told.startswith("Usage:"):  # a command without arguments, whose help this is
            error.show()
        else:
            where = "penstock" if error.ctx is None else error.ctx.command_path
            told = _in_our_words(told, error)
            typer.echo(f"penstock: {told[:1].lower()}{told[1:].rstrip('.')}; `{where} --help` tells more", err=True)
        return ExitCode.CONFIGURATION
    except typer.Abort:
        typer.echo("penstock: given up", err=True)
        return ExitCode.UNEXPECTED
    return code


_KAFKAS_COMMANDS: Final = {"describe": ("show", "list", "ls"), "list": ("ls",), "ls": ("list",)}
_KAFKAS_FLAGS: Final = {
    "--topic": "name the topic without a flag",
    "--group": "name the group without a flag",
    "--describe": "that is the command show",
    "--list": "that is the command list",
    "--create": "that is the command create",
    "--delete": "that is the command delete",
    "--config": "a config is set by --set KEY=VALUE",
    "--port": "an address for Kafka's clients is given by --listen HOST:PORT",
}


def _in_our_words(told: str, error: typer.BadParameter) -> str:
    """What a habit from Kafka's tools is called here, where the spelling alone finds nothing near."""
    match = _UNKNOWN.match(told)
    if match is None:
        return told
    kind, name = match.groups()
    if kind == "command":
        known = getattr(error.ctx and error.ctx.command, "commands", {})
        ours = next((one for one in _KAFKAS_COMMANDS.get(name, ()) if one in known), None)
        return told if ours is None else f"No such command {name!r}. Did you mean {ours!r}?"
    if (ours := _KAFKAS_FLAGS.get(name)) is not None:
        return f"No such option: {name} ({ours})"

    from gateway.config.loading import FIELDS

    return f"No such option: {name} (a key: --set {name[2:]}=VALUE)" if name[2:] in FIELDS else told


TOOLS: Final = {
    "topics": "kafka.topics",
    "produce": "kafka.produce",
    "consume": "kafka.consume",
    "groups": "kafka.groups",
    "configs": "kafka.configs",
    "acls": "kafka.acls",
    "users": "users",
    "credentials": "kafka.credentials",
    "quotas": "kafka.quotas",
    "cluster": "kafka.clusters",
    "doctor": "doctor",
    "debug": "debug",
    "profile": "kafka.profile",
    "streams": "streams",
    "tier2": "tier2",
    "bench": "bench",
}
"""The commands that a running gateway does not need, in the order of help, and the modules that have them."""


@cache
def add_tools(*names: str) -> None:
    """Add tools by name; without a name all of them."""
    for name in names or TOOLS:
        app.add_typer(importlib.import_module(f"gateway.cli.{TOOLS[name]}").app)


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
