"""Kafka Streams, which counts in a table on its own disk: killed, its disk lost, restored from its changelog."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Final

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import WITHIN_S, Jvm, make, penstock, produce, read
from compat_tests.harness.system import CLASSES, JARS, Penstock, compile_runner
from compat_tests.harness.waiting import until

VERSION: Final = "4.3.1"
RECORDS: Final = 4_000
WORDS: Final = 40


def restored(directory: Path) -> Finding:
    """Every word of the source gives its next count once, also those that come after the table was lost."""
    compile_runner()
    words = [f"word {7 * number % WORDS}" for number in range(RECORDS)]
    half = RECORDS // 2
    state = directory / "state"
    with penstock(directory / "server") as server:
        for topic in ("words", "counts"):
            make(server, topic)
        produce(server, "words", words[:half])
        job = _job(directory, server, state)
        try:
            until(lambda: len(read(server, "counts")) >= half, within_s=WITHIN_S, what="one half is counted", every_s=1)
            job.kill()
            shutil.rmtree(state)
            produce(server, "words", words[half:])
            job = _job(directory, server, state)
            until(lambda: len(read(server, "counts")) >= RECORDS, within_s=WITHIN_S, what="all is counted", every_s=1)
            job.assert_running()
        finally:
            job.kill()
        told = Counter(map(int, read(server, "counts")))
    wanted = Counter(count for of_word in Counter(words).values() for count in range(1, of_word + 1))
    assert told == wanted, "a count is missing, doubled, or begun again"
    return Finding(
        "Kafka Streams",
        VERSION,
        "a count with `exactly_once_v2`, killed on the way, its state directory lost, restored from its changelog",
        f"{RECORDS:,} records, each counted once",
    )


def _job(directory: Path, server: Penstock, state: Path) -> Jvm:
    arguments = (server.address, "count", "words", "counts", str(state))
    return Jvm([CLASSES, JARS / "*"], "penstock.compat.StreamsCount", directory / "job", *arguments)
