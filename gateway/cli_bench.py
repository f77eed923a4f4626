"""`penstock bench`: its options. What they mean is the load generator's affair, which a gateway does not need."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

EXIT_OPTIONS = 2
MB = 1e6


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
    compression: Annotated[str, typer.Option(help="none, gzip, snappy, lz4 or zstd.")] = "none",
    acks: Annotated[str, typer.Option(help="0, 1 or all.")] = "all",
    idempotence: Annotated[bool, typer.Option(help="Idempotent producers.")] = False,
    transactions: Annotated[int, typer.Option(min=0, metavar="N", help="Commit after every N records; 0 for no.")] = 0,
    client: Annotated[str, typer.Option(help="confluent (compiled), kafka-python or aiokafka.")] = "confluent",
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
        from bench.tool import command, plan
    except ModuleNotFoundError as missing:
        _refuse(f"{missing.name} is not installed: pip install 'penstock[bench]'")
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
        compression=compression,
        acks=acks,
        idempotence=idempotence,
        transactions=transactions,
        client=client,
        settings={key: value for key, _, value in pairs},
    )
    reporting = command.Reporting(workload=workload, interval_s=interval, csv_file=csv, json_file=json)
    sys.exit(command.run(made, processes=processes, keep_topic=keep_topic, reporting=reporting))


def _rate(throughput: float | None, rate: float | None, size: int) -> float | None:
    if throughput is not None and rate is not None:
        _refuse("--throughput and --rate are two names of one thing: give one of them")
    wanted = rate if throughput is None else throughput * MB / size
    if wanted is not None and wanted <= 0:
        _refuse("a rate is above 0; without --throughput and --rate it is as fast as it goes")
    return wanted


def _refuse(text: str) -> NoReturn:
    typer.echo(f"penstock bench: {text}", err=True)
    raise typer.Exit(EXIT_OPTIONS)
