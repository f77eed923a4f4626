"""The commands of `penstock cluster` that go by etcd: the cluster as its nodes see it, and what operators ask of it."""

from __future__ import annotations

import sys
from pathlib import Path
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


@configured("cluster")
def finalize(settings: Settings, yes: Yes = False, as_json: AsJson = False) -> None:
    """Finish an upgrade: let nodes use what the older release could not read. It cannot be taken back."""
    from gateway.cli import cluster_commands

    sys.exit(cluster_commands.run_finalize(settings, yes=yes, as_json=as_json))


@configured("cluster", "tier2", "tier2_endpoint")
def rebuild(
    settings: Settings,
    yes: Yes = False,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where one container at a time is copied to. Default: as TMPDIR says."),
    ] = None,
    without_secrets: Annotated[
        bool,
        typer.Option("--without-secrets", help="Go on without the users and tokens that are sealed in the bucket."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a cluster's keys in etcd anew from the bucket, when etcd has lost its data for good.

    Stop all nodes first. Settings, quotas and ACLs come from their copy there; users and tokens too, with
    cluster.settings.key as the nodes had it.
    """
    from gateway.cli import cluster_rebuild

    wanted = cluster_rebuild.Wanted(yes=yes, scratch=scratch, without_secrets=without_secrets)
    sys.exit(cluster_rebuild.run_rebuild(settings, wanted, as_json=as_json))


def register(app: typer.Typer) -> None:
    """Add the commands to `penstock cluster`."""
    for command in (status, rebalance, finalize, rebuild):
        app.command()(command)
