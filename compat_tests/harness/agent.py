"""One client process: requests go in as lines of JSON, answers come back in order.

Keeps: every wait has a bound; a process that does not answer in time is killed and its last words are shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from compat_tests.harness.records import Refused
from compat_tests.harness.system import HERE, java_command

ANSWER_WITHIN_S: Final = 45.0

COMMANDS: Final = {
    "kafka-python": [sys.executable, "-m", "compat_tests.agents.kafka_python_client"],
    "aiokafka": [sys.executable, "-m", "compat_tests.agents.aiokafka_client"],
    "confluent-kafka": [sys.executable, "-m", "compat_tests.agents.confluent_client"],
    "java": java_command("penstock.compat.Agent", "-Xmx512m"),
    "kafkajs": ["node", str(HERE / "node" / "agent.js")],
}


class AgentProcess:
    """A client process and its open request, if there is one."""

    def __init__(self, client: str, bootstrap: str, log: Path) -> None:
        self.client = client
        self._log_path = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*COMMANDS[client], bootstrap],
                cwd=HERE.parent,
                env=os.environ | {"KAFKAJS_NO_PARTITIONER_WARNING": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def begin(self, op: str, **arguments: Any) -> None:
        """Send a request whose answer `finish` will collect: meanwhile the server may be restarted."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def finish(self, within_s: float = ANSWER_WITHIN_S) -> Any:
        try:
            line = self._answers.get(timeout=within_s)
        except queue.Empty:
            self.kill()
            raise AssertionError(f"{self.client} gave no answer in {within_s:g} s\n{self.log_tail()}") from None
        assert line, f"{self.client} ended\n{self.log_tail()}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused.from_wire(answer["error"])
        return answer["ok"]

    def call(self, op: str, within_s: float = ANSWER_WITHIN_S, **arguments: Any) -> Any:
        self.begin(op, **arguments)
        return self.finish(within_s)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Die as a crashed client does: no leave, no close."""
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """The process does nothing meanwhile, as in a long pause of its collector: no leave, no heartbeat."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> str:
        text = self._log_path.read_text(errors="replace")
        return f"--- {self.client}'s log ---\n" + "\n".join(text.splitlines()[-40:])
