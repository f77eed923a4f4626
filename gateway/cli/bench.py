"""`penstock bench`: its options. The load generator, which a gateway does not import, gives them their meaning."""

from __future__ import annotations

import enum
import math
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(rich_markup_mode=None)
EXIT_OPTIONS = 2
MB = 1e6


class Compression(enum.Enum):
    """Codecs that every client has."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Acks(enum.Enum):
    """The values of `acks`, as Kafka's clients write them."""

    NONE = "0"
    LEADER = "1"
    ALL = "all"


class Client(enum.Enum):
    """The libraries of `gateway.bench.clients`."""

    CONFLUENT = "confluent"
    KAFKA_PYTHON = "kafka-python"
    AIOKAFKA = "aiokafka"


@app.command(short_help="Load a Kafka endpoint and measure it.")
def bench(
    bootstrap: Annotated[str, typer.Option(metavar="HOST:PORT", help="Any Kafka endpoint.")] = "localhost:9092",
    topic: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Topic to use; it stays. Not given: one is made and removed."),
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of a topic that is made.")] = 1,
    writers: Annotated[
        int | None, typer.Option(min=0, help="Producers; 1 unless there are readers of a --topic.", show_default=False)
    ] = None,
    readers: Annotated[
        int, typer.Option(min=0, help="Consumers. With writers, latency is from a record's time to its arrival.")
    ] = 0,
    size: Annotated[int, typer.Option(min=1, metavar="B", help="Bytes of a record's value.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Measured time.")] = 10.0,
    records: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N records (of each reader, when only reading).")
    ] = None,
    throughput: Annotated[
        float | None,
        typer.Option(metavar="MB/s", help="Open loop: latency counts from a record's due time."),
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="RECORDS/s", help="The same, in records.")] = None,
    warmup: Annotated[float, typer.Option(min=0, metavar="S", help="Load before the measured time.")] = 3.0,
    keys: Annotated[int, typer.Option(min=0, metavar="N", help="Number of different keys; 0: none.")] = 0,
    compression: Annotated[Compression, typer.Option(help="Codec of the writers' batches.")] = Compression.NONE,
    acks: Annotated[Acks, typer.Option(help="Acknowledgements that a writer waits for.")] = Acks.ALL,
    idempotence: Annotated[bool, typer.Option(help="Idempotent producers.")] = False,
    transactions: Annotated[int, typer.Option(min=0, metavar="N", help="Commit after every N records; 0: none.")] = 0,
    client: Annotated[
        Client, typer.Option(help="Client library. confluent comes with Penstock and is compiled; install the others.")
    ] = Client.CONFLUENT,
    config: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the client; may be repeated.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Most processes for writers, and for readers. Default: 16.", show_default=False),
    ] = None,
    keep_topic: Annotated[bool, typer.Option("--keep-topic", help="Leave the topic that was made.")] = False,
    workload: Annotated[str | None, typer.Option(metavar="NAME", help="The name in tables and files.")] = None,
    interval: Annotated[float, typer.Option(min=0.5, metavar="S", help="Time between two lines.")] = 5.0,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="File for intervals and total; - for stdout.")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="File for the total; - for stdout.")] = None,
) -> None:
    """Load a Kafka endpoint and measure it: throughput, and latency without coordinated omission.

    Writers alone measure the time to the acknowledgement; readers alone, the wait for records; both together, the
    time from end to end.
    """
    try:
        from gateway.bench import command, plan
    except ModuleNotFoundError as missing:
        _refuse(f"{missing.name} is not installed, which comes with every installation: install Penstock again")
    for flag, number in (("--seconds", seconds), ("--warmup", warmup), ("--interval", interval), ("--rate", rate)):
        if number is not None and not math.isfinite(number):
            _refuse(f"{flag} {number}: allowed: a finite number")
    for flag, name in (("--csv", csv), ("--json", json)):
        _check_writable(flag, name)
    pairs = [pair.partition("=") for pair in config or []]
    if bad := [key for key, equals, _ in pairs if not equals]:
        _refuse(f"--config {bad[0]}: expected KEY=VALUE")
    made = plan.Plan(
        bootstrap=bootstrap,
        topic=topic or "",
        partitions=partitions,
        writers=(0 if topic and readers else 1) if writers is None else writers,
        readers=readers,
        size=size,
        seconds=seconds,
        records=records,
        rate=_rate(throughput, rate, size),
        warmup=warmup,
        keys=keys,
        compression=compression.value,
        acks=acks.value,
        idempotence=idempotence,
        transactions=transactions,
        client=client.value,
        settings={key: value for key, _, value in pairs},
    )
    reporting = command.Reporting(workload=workload, interval_s=interval, csv_file=csv, json_file=json)
    sys.exit(command.run(made, processes=processes, keep_topic=keep_topic, reporting=reporting))


def _rate(throughput: float | None, rate: float | None, size: int) -> float | None:
    if throughput is not None and not math.isfinite(throughput):
        _refuse(f"--throughput {throughput}: allowed: a finite number")
    if throughput is not None and rate is not None:
        _refuse("--throughput and --rate are two names of one thing: give one of them")
    wanted = rate if throughput is None else throughput * MB / size
    if wanted is not None and wanted <= 0:
        _refuse("a rate is above 0; without --throughput and --rate it is as fast as it goes")
    return wanted


def _check_writable(flag: str, name: str | None) -> None:
    """Check the file before the load, so that no run ends with figures that cannot be written."""
    if name is None or name == "-":
        return
    path = Path(name)
    place = path if path.exists() else path.absolute().parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        _refuse(f"{flag} {name}: no file can be written there")


def _refuse(text: str) -> NoReturn:
    typer.echo(f"penstock bench: {text}", err=True)
    raise typer.Exit(EXIT_OPTIONS)
