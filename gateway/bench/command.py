"""The whole of `penstock bench`, after its options."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.bench.clients import MODULES
from gateway.bench.coordinator import Run, RunFailed
from gateway.bench.output import Output
from gateway.bench.plan import PROCESSES_MAX, Plan, PlanError
from gateway.bench.topics import Topics, TopicTrouble

EXIT_FAILED = 1
EXIT_OPTIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """The destinations of the figures."""

    workload: str | None
    interval_s: float
    csv_file: str | None
    json_file: str | None


def run(plan: Plan, *, processes: int | None, keep_topic: bool, reporting: Reporting) -> int:
    """Carry out the plan; return the exit code. An empty topic name means a topic of the run's own."""
    try:
        plan.check()
        _check_client(plan.client)
        own = not plan.topic
        plan = replace(plan, topic=plan.topic or f"bench-{uuid.uuid4().hex[:8]}")
        return _guarded(lambda: _run(plan, processes or PROCESSES_MAX, own and not keep_topic, reporting))
    except PlanError as error:
        _complain(str(error))
        return EXIT_OPTIONS


def _guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except (RunFailed, TopicTrouble) as error:
        _complain(str(error))
        return EXIT_FAILED


def _run(plan: Plan, processes: int, fleeting: bool, reporting: Reporting) -> int:
    topics = Topics(plan.bootstrap, plan.topic)
    if plan.mode == "read" and not topics.partitions():
        raise PlanError(f"nothing to read: name an existing topic with --topic, or add --writers (got {plan.topic!r})")
    with topics.present(plan.partitions, keep=not fleeting) as partitions:
        plan = replace(plan, partitions=partitions)
        workload = reporting.workload or _name(plan)
        output = Output(
            plan,
            workload,
            interval_s=reporting.interval_s,
            csv_file=reporting.csv_file,
            json_file=reporting.json_file,
        )
        with output.running():
            totals = Run(plan, processes, topics).totals(output.tick)
    figures = totals.final()
    output.final(figures)
    if figures.errors:
        _complain(f"{figures.errors:,} records failed, the last one: {totals.error}")
    return EXIT_FAILED if figures.errors or not figures.records else 0


def _name(plan: Plan) -> str:
    """A plan in words, for tables."""
    parts = [plan.mode, f"{plan.size} B"] if plan.writers else [plan.mode]
    parts += [f"{plan.writers} writers"] if plan.writers else []
    parts += [f"{plan.readers} readers"] if plan.readers else []
    parts += [f"{plan.partitions} partitions", "burst" if plan.rate is None else f"{plan.rate:g} records/s"]
    return ", ".join(parts)


def _check_client(client: str) -> None:
    if client not in MODULES:
        raise PlanError(f"--client {client}: one of {', '.join(MODULES)}")
    try:
        __import__({"confluent": "confluent_kafka", "kafka-python": "kafka", "aiokafka": "aiokafka"}[client])
    except ModuleNotFoundError as missing:
        package = "confluent-kafka" if client == "confluent" else client
        raise PlanError(f"--client {client} is not installed: pip install '{package}'") from missing


def _complain(text: str) -> None:
    print(f"penstock bench: {text}", file=sys.stderr)
