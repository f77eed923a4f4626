"""`penstock produce`: write records."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from gateway.cli.client.cluster import NewRecord, Writer, counted
from gateway.cli.client.session import Session, connected
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(rich_markup_mode=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """How a command comes by its records, as its flags say."""

    files: Sequence[Path]
    is_json: bool
    is_whole: bool
    is_tombstone: bool
    template: str | None
    key_template: str | None
    seed: int | None
    key: str | None
    separator: str | None

    def check(self) -> None:
        """Raises Refused for flags that contradict one another, or would be ignored, and for a file that is not there.

        So nothing is asked of a cluster, which may make the topic, before it is clear what to write.
        """
        made = self.is_tombstone or self.template is not None
        keys = [one for one in (self.key, self.key_template, self.separator) if one is not None]
        for wrong, why in (
            (
                self.is_tombstone + (self.template is not None) + self.is_whole + self.is_json > 1,
                "--template, --tombstone, --whole and --records are ways to come by records: give one",
            ),
            (bool(self.files) and made, "--tombstone and --template read no file: leave it out"),
            (self.is_whole and not self.files, "--whole makes a record of each file: name files"),
            (
                self.separator is not None and (made or self.is_whole or self.is_json),
                "--key-separator divides lines: leave it out",
            ),
            (self.template is None and self.key_template is not None, "--key-template belongs to --template"),
            (self.template is None and self.seed is not None, "--seed belongs to --template"),
            (len(keys) > 1, "--with-key, --key-template and --key-separator say a record's key: give one"),
            (self.is_tombstone and self.key is None, "--tombstone deletes a key: name it with --with-key"),
        ):
            if wrong:
                raise Refused(why, ExitCode.CONFIGURATION)
        for path in self.files:
            if not path.exists():
                raise Refused(f"{path}: cannot be read: there is no such file", ExitCode.CONFIGURATION)


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

    ways = _Ways(
        files=tuple(files or ()),
        is_json=records,
        is_whole=whole,
        is_tombstone=tombstone,
        template=template,
        key_template=key_template,
        seed=seed,
        key=record_key,
        separator=separator,
    )
    ways.check()
    common = sources.Common(None if record_key is None else record_key.encode(), sources.headers_of(headers), partition)
    values = None if template is None else Template(template, seed)
    keys = None if key_template is None else Template(key_template, seed)

    def given() -> Iterator[NewRecord]:
        if tombstone:
            yield common.record(None)
        elif values is not None:
            yield from sources.from_template(values, keys, common, count)
        elif whole:
            yield from sources.from_files(ways.files, common)
        else:
            for file in _opened(ways.files):
                yield from sources.from_json(file, common) if records else sources.from_lines(file, common, separator)

    is_typed = not (files or tombstone or template is not None) and sys.stdin.isatty()
    if is_typed:
        session.output.note("a line is a record; Ctrl-D ends")
    wanted = sources.paced(itertools.islice(given(), count), rate)
    codec = None if compression == "none" else compression
    with contextlib.closing(session.cluster.writer(topic, compression=codec, acks=acks)) as writer:
        written = _write(session, writer, wanted, count, is_typed=is_typed)
    if session.output.as_json:
        session.output.result({"topic": topic, "records": written})
    else:
        session.output.note(f"{counted(written, 'record')} written to {topic}")


def _write(session: Session, writer: Writer, records: Iterator[NewRecord], count: int | None, *, is_typed: bool) -> int:
    """How many were written. What is typed is acknowledged line by line, so that a refusal comes at once."""
    written = 0
    try:
        with session.output.progress("records", count, shown=not is_typed) as advance:
            for record in records:
                writer.write(record)
                written += 1
                advance(1)
                if is_typed:
                    writer.flush()
            writer.flush()
    except KeyboardInterrupt:  # what was taken is written; the rest of the input is left
        writer.flush()
    return written


def _opened(files: Sequence[Path]) -> Iterator[BinaryIO]:
    if not files:
        yield sys.stdin.buffer
        return
    for path in files:
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise Refused(f"{path}: cannot be read: {error.strerror}", ExitCode.CONFIGURATION) from None
