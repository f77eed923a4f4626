"""`penstock streams`: looking at streams, and cutting and placing them by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.client.asking import asking
from gateway.cli.client.rest import Rest

app = typer.Typer(
    name="streams",
    short_help="Look at streams and segments; split, merge and move them.",
    help="Look at streams and their segments, split, merge and move them by hand. Asks a running gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The stream: a topic's name.")]


@app.command("ls")
@asking
def list_streams(rest: Rest, *, as_json: bool) -> None:
    """List streams with their segments, sizes and rates."""
    from gateway.cli import streams_client

    streams_client.ls(rest, as_json=as_json)


@app.command()
@asking
def show(rest: Rest, name: Name, *, as_json: bool) -> None:
    """Draw a stream's epochs as a picture: time goes to the right, the key space upwards."""
    from gateway.cli import streams_client

    streams_client.show(rest, name, as_json=as_json)


@app.command()
@asking
def scale(
    rest: Rest,
    name: Name,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="ID[@SLOT,...]",
            help="Cut this segment so that each named slot begins a new one. Without slots, the cut halves the load.",
        ),
    ] = None,
    merge: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Make these neighbours one segment.")] = None,
    *,
    as_json: bool,
) -> None:
    """Split a segment, or merge neighbours. Clients notice nothing."""
    from gateway.cli import streams_client

    streams_client.scale(rest, name, split=split, merge=merge, as_json=as_json)


@app.command()
@asking
def move(
    rest: Rest,
    name: Name,
    slot: Annotated[int, typer.Argument(metavar="SLOT", help="The slot: a Kafka partition.", min=0)],
    to: Annotated[int, typer.Option("--to", metavar="CONTAINER", help="The container that is to have it.", min=0)],
    *,
    as_json: bool,
) -> None:
    """Move a slot to another container, while it is written and read.

    Its history is copied, which may take a while. Clients notice at most a short retry. Interrupting this command
    does not interrupt the move.
    """
    from gateway.cli import streams_client

    streams_client.move(rest, name, slot, to, as_json=as_json)


@app.command()
@asking
def seal(
    rest: Rest,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")] = False,
    *,
    as_json: bool,
) -> None:
    """End a stream for good: it can be read, and takes no more records (producers get POLICY_VIOLATION).

    That cannot be undone, so the command asks first.
    """
    from gateway.cli import streams_client

    streams_client.seal(rest, name, yes=yes, as_json=as_json)
