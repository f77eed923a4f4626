"""`penstock tier2`: looking at long-term storage."""

from __future__ import annotations

import sys

import typer

from gateway.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    DataDir,
    TakeOver,
    Tier2,
    Tier2Endpoint,
    flags_of,
    load_config,
)

app = typer.Typer(
    name="tier2",
    help="Look at long-term storage: what is there, and whether it is what the store knows.",
    short_help="Look at long-term storage, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls")
def list_chunks(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    tier2: Tier2 = None,
    tier2_endpoint: Tier2Endpoint = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """List partitions and chunks, as the store knows them. Asks the gateway if one runs on the data directory."""
    flags = flags_of(data_dir=data_dir, tier2=tier2, tier2_endpoint=tier2_endpoint)
    loaded = load_config(config, assignments, flags)

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_ls(loaded, as_json=as_json))


@app.command()
def verify(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    tier2: Tier2 = None,
    tier2_endpoint: Tier2Endpoint = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Read every chunk and compare it with what the store knows. Exit code 1 if something is missing or damaged."""
    flags = flags_of(data_dir=data_dir, tier2=tier2, tier2_endpoint=tier2_endpoint)
    loaded = load_config(config, assignments, flags)

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_verify(loaded, as_json=as_json))


@app.command()
def init(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    tier2: Tier2 = None,
    tier2_endpoint: Tier2Endpoint = None,
    take_over: TakeOver = False,
    assignments: Assignments = None,
) -> None:
    """Make a prefix this data directory's own: an empty one, or one that another copy of its data has taken.

    What was in it, or what the other copy has made of it, is lost.
    """
    flags = flags_of(data_dir=data_dir, tier2=tier2, tier2_endpoint=tier2_endpoint)
    loaded = load_config(config, assignments, flags)

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_init(loaded, take_over=take_over))
