"""`penstock tier2`: looking at long-term storage."""

from __future__ import annotations

import sys

import typer

from gateway.cli.options import STORAGE, AsJson, Settings, TakeOver, configured

app = typer.Typer(
    name="tier2",
    help="List the data in long-term storage, and check it against the store's knowledge.",
    short_help="Look at long-term storage, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls")
@configured(*STORAGE)
def list_chunks(settings: Settings, as_json: AsJson = False) -> None:
    """List partitions and chunks, as the store knows them. Asks the gateway if one runs on the data directory."""
    loaded = settings.load()

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_ls(loaded, as_json=as_json))


@app.command()
@configured(*STORAGE)
def verify(settings: Settings, as_json: AsJson = False) -> None:
    """Read every chunk and compare it with the store's knowledge. Exit code 1 if something is missing or damaged."""
    loaded = settings.load()

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_verify(loaded, as_json=as_json))


@app.command()
@configured(*STORAGE)
def init(settings: Settings, take_over: TakeOver = False) -> None:
    """Make a prefix this data directory's own: an empty one, or one that another copy of its data has taken.

    The previous data below the prefix, or the other copy's changes to it, are lost.
    """
    loaded = settings.load()

    from gateway.cli import tier2_commands

    sys.exit(tier2_commands.run_init(loaded, take_over=take_over))
