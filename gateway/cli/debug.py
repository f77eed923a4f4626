"""`penstock debug`: what a bug report needs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import SERVING, AsJson, File, Settings, configured
from gateway.cli.output import Output, Size
from gateway.cli.refused import run

app = typer.Typer(name="debug", help="Make a bug report.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def debug() -> None:
    """Make a bug report."""


@app.command()
@configured(*SERVING)
def bundle(
    settings: Settings,
    file: File = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Log file, whose last 10 MiB are added.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Archive to make. Default: penstock-debug-TIME.tar.gz.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make one archive for a bug report: configuration, versions, metrics, findings, log. Takes the flags of `serve`.

    It has no secrets and no records; topics and addresses may be named in it. Look at it before you pass it on.
    """
    config = settings.over(file).load()

    from gateway.cli.debug_bundle import make

    told = Output(as_json=as_json)

    def command() -> None:
        logging.disable(logging.CRITICAL)  # the archive says it
        with told.progress("looking"):
            made = make(config, output, log)
        if as_json:
            told.result({"file": str(made.path), "bytes": made.size, "members": list(made.members)})
        else:
            told.line(f"{made.path}: {Size(made.size)}, with {', '.join(made.members)}")

    sys.exit(run(command))
