"""`penstock bench`: its options. What they mean is the load generator's affair, which a gateway does not need."""

from __future__ import annotations

import enum
import math
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

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
    """As Kafka's clients write them."""

    NONE = "0"
    LEADER = "1"
    ALL = "all"


class Client(enum.Enum):
    """The libraries of `gateway.bench.clients`."""

    CONFLUENT = "confluent"
    KAFKA_PYTHON = "kafka-python"
    AIOKAFKA = "aiokafka"


def bench(
    bootstrap: Annotated[str, typer.Option(metavar="HOST:PORT", help="Any Kafka endpoint.")] = "localhost:9092",
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="Left as it is; without it one is made and removed.")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Of a topic that is made.")] = 1,
    writers: Annotated[
        int | None, typer.Option(min=0, help="Producers; 1 unless there are readers of a --topic.", show_default=False)
    ] = None,
    readers: Annotated[
        int, typer.Option(min=0, help="Consumers. With writers, latency is from a record's time to its arrival.")
    ] = 0,
    size: Annotated[int, typer.Option(min=1, metavar="B", help="Bytes of a record's value.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Measured time.")] = 10.0,
    records: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after so many records (each reader, when only reading).")
    ] = None,
    throughput: Annotated[
        float | None,
        typer.Option(metavar="MB/s", help="Open loop: latency counts from when a record was due."),
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="RECORDS/s", help="The same, in records.")] = None,
    warmup: Annotated[float, typer.Option(min=0, metavar="S", help="Load before the measured time.")] = 3.0,
    keys: Annotated[int, typer.Option(min=0, metavar="N", help="So many different keys; 0 for none.")] = 0,
    compression: Annotated[Compression, typer.Option(help="Of a writer's batches.")] = Compression.NONE,
    acks: Annotated[Acks, typer.Option(help="What a writer waits for.")] = Acks.ALL,
    idempotence: Annotated[bool, typer.Option(help="Idempotent producers.")] = False,
    transactions: Annotated[int, typer.Option(min=0, metavar="N", help="Commit after every N records; 0 for no.")] = 0,
    client: Annotated[
        Client, typer.Option(help="confluent is compiled; the others are to be installed.")
    ] = Client.CONFLUENT,
    config: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the client; may be repeated.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many for writers, and for readers; 16 by default.", show_default=False),
    ] = None,
    keep_topic: Annotated[bool, typer.Option("--keep-topic", help="Leave the topic that was made.")] = False,
    workload: Annotated[str | None, typer.Option(metavar="NAME", help="The name in tables and files.")] = None,
    interval: Annotated[float, typer.Option(min=0.5, metavar="S", help="Between two lines.")] = 5.0,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Intervals and total; - for stdout.")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="The total; - for stdout.")] = None,
) -> None:
    """Load a Kafka endpoint and measure it: throughput, and latency without coordinated omission.

    Writers alone measure the time to the acknowledgement; readers alone how long records were waited for; both
    together the time from end to end.
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
    """Before the load: nobody waits for figures that cannot be kept."""
    if name is None or name == "-":
        return
    path = Path(name)
    place = path if path.exists() else path.absolute().parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        _refuse(f"{flag} {name}: no file can be written there")


def _refuse(text: str) -> NoReturn:
    typer.echo(f"penstock bench: {text}", err=True)
    raise typer.Exit(EXIT_OPTIONS)
