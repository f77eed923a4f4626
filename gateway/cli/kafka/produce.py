"""`penstock produce`: write records."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from gateway.cli.client.cluster import NewRecord, counted
from gateway.cli.client.session import Session, connected
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(rich_markup_mode=None)


@app.command("produce", short_help="Write records: lines, files, JSON, or generated ones.")
@connected
def produce(
    session: Session,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Files to read; without one, standard input.")
    ] = None,
    record_key: Annotated[
        str | None, typer.Option("--with-key", "-k", metavar="KEY", help="Key of every record.")
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option("--key-separator", metavar="TEXT", help=r"Text between key and value of a line, such as \t."),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="Header of every record. Repeatable."),
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", metavar="N", help="Partition of every record; else by its key.")
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="Lines are records in JSON, as `consume --json` writes them.")
    ] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Each file is one record.")] = False,
    tombstone: Annotated[
        bool,
        typer.Option("--tombstone", help="Write one record without a value, which deletes its key when compacted."),
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help='Generate values: {"id": {{seq}}, "who": "{{choice ann bob}}"}. In double braces: seq, uuid, now, '
            "int LOW HIGH, float LOW HIGH, choice A B ..., hex N, text N.",
        ),
    ] = None,
    key_template: Annotated[
        str | None, typer.Option("--key-template", metavar="TEXT", help="Generate keys likewise.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Generate the same records again.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", metavar="N", min=1, help="Write so many records.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", min=0.001, help="Write so many records a second at most.")
    ] = None,
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], typer.Option("--compression", help="Codec of batches.")
    ] = "none",
    acks: Annotated[Literal["0", "1", "all"], typer.Option("--acks", help="Acknowledgements to wait for.")] = "all",
) -> None:
    """Write records from lines, files, JSON or a template; ends when all are acknowledged."""
    from gateway.cli.kafka import sources
    from gateway.cli.kafka.templates import Template

    common = sources.Common(None if record_key is None else record_key.encode(), sources.headers_of(headers), partition)

    def given() -> Iterator[NewRecord]:
        if tombstone:
            yield common.record(None)
        elif template is not None:
            keys = None if key_template is None else Template(key_template, seed)
            yield from sources.from_template(Template(template, seed), keys, common, count)
        elif whole:
            yield from sources.from_files(files or (), common)
        else:
            for file in _opened(files):
                yield from sources.from_json(file, common) if records else sources.from_lines(file, common, separator)

    if template is None and key_template is not None:
        raise Refused("--key-template belongs to --template", ExitCode.CONFIGURATION)
    if tombstone and record_key is None:
        raise Refused("--tombstone deletes a key: name it with --with-key", ExitCode.CONFIGURATION)
    wanted = sources.paced(itertools.islice(given(), count), rate)
    written = _write(session, topic, wanted, None if compression == "none" else compression, acks, count)
    if session.output.as_json:
        session.output.result({"topic": topic, "records": written})
    else:
        session.output.note(f"{counted(written, 'record')} written to {topic}")


def _write(
    session: Session, topic: str, records: Iterator[NewRecord], compression: str | None, acks: str, count: int | None
) -> int:
    writer = session.cluster.writer(topic, compression=compression, acks=acks)
    written = 0
    try:
        with session.output.progress("records", count) as advance:
            for record in records:
                writer.write(record)
                written += 1
                advance(1)
            writer.flush()
    except KeyboardInterrupt:  # what was taken is written; the rest of the input is left
        writer.flush()
    finally:
        writer.close()
    return written


def _opened(files: list[Path] | None) -> Iterator[BinaryIO]:
    if not files:
        yield sys.stdin.buffer
        return
    for path in files:
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise Refused(f"{path}: cannot be read: {error.strerror}", ExitCode.CONFIGURATION) from None
