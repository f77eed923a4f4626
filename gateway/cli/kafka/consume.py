"""`penstock consume`: read records."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from gateway.cli.client.cluster import Record
from gateway.cli.client.session import Session, connected

app = typer.Typer(rich_markup_mode=None)


@app.command("consume", short_help="Read records: from an offset or time, the newest, or as they come.")
@connected
def consume(
    session: Session,
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="The topics.")],
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="start, end, an OFFSET, -N (the last N of each partition), a time such as 2030-01-31T12:00Z or @MS, "
            "or an age such as -15min. Default: start; with --follow: end.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str | None, typer.Option("--until", metavar="PLACE", help="Where to end. Default: the end as it is now.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=1, help="Read so many records.")
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            metavar="N",
            min=1,
            max=10_000,
            help="The newest N records of all partitions, in order of time; with --follow what comes then, too.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")] = False,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="ID", help="Read as a member of a group, and commit.")
    ] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", metavar="N", help="Only this partition. Repeatable.")
    ] = None,
    record_key: Annotated[
        str | None, typer.Option("--with-key", "-k", metavar="KEY", help="Only records with this key.")
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Of the records found only the newest.")] = False,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="TEXT",
            help=r"Form of a line: {key}\t{value}; also {topic} {partition} {offset} {timestamp} {time} {headers} "
            "{size}.",
        ),
    ] = "{value}",
    pretty: Annotated[bool, typer.Option("--pretty", help="Indented JSON, values too if they are JSON.")] = False,
    committed: Annotated[
        bool, typer.Option("--committed", help="Leave out records of transactions that did not commit.")
    ] = False,
) -> None:
    """Read records. Ends at the present end of the topics, or goes on with --follow."""
    from gateway.cli.kafka import formats
    from gateway.cli.kafka.reading import Reading, Wanted

    write: Callable[[Record], bytes]
    if session.output.as_json:
        write = formats.line
    elif pretty:
        write = formats.pretty
    else:
        write = formats.formatter(form, safe=sys.stdout.isatty())
    wanted = Wanted(
        topics=tuple(topics),
        begin=begin,
        until=until,
        count=count,
        tail=tail,
        follow=follow,
        group=group,
        partitions=tuple(partitions or ()),
        key=None if record_key is None else record_key.encode(),
        newest=newest,
        committed=committed,
    )
    out = sys.stdout.buffer

    def show(records: list[Record]) -> None:
        for record in records:
            out.write(write(record))
        out.flush()

    Reading(session, wanted, show).run()
