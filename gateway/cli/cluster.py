"""The commands of `penstock cluster` that go by etcd: the cluster as its nodes see it, and what operators ask of it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli.options import AsJson, Settings, configured

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it: without this only what would be done is shown.")]


@configured("cluster")
def status(settings: Settings, as_json: AsJson = False) -> None:
    """Show a cluster in etcd: its nodes, who serves which container, how busy they are, and moves under way."""
    from gateway.cli import cluster_commands

    sys.exit(cluster_commands.run_status(settings, as_json=as_json))


@configured("cluster")
def rebalance(settings: Settings, yes: Yes = False, as_json: AsJson = False) -> None:
    """Look once for the container whose move evens out the load most, however short ago the last move was."""
    from gateway.cli import cluster_commands

    sys.exit(cluster_commands.run_rebalance(settings, yes=yes, as_json=as_json))


def register(app: typer.Typer) -> None:
    """Add the commands to `penstock cluster`."""
    for command in (status, rebalance):
        app.command()(command)
