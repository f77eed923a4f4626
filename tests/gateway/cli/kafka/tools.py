"""The tools as processes, beside whatever speaks Kafka's protocol at an address."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway.forking import finished
from tests.gateway.launching import END_WITHIN_S


@dataclass(frozen=True, slots=True)
class Tools:
    """`penstock ...` with `--bootstrap`, in an empty home."""

    address: str
    home: Path

    def run(
        self, *arguments: str, given: str | bytes = b"", bootstrap: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; standard input is `given` and no terminal."""
        where = ["--bootstrap", self.address] if bootstrap else []
        done = finished(
            [*arguments, *where],
            {**os.environ, "XDG_CONFIG_HOME": str(self.home), "TZ": "UTC"},
            given.encode() if isinstance(given, str) else given,
            2 * END_WITHIN_S,
        )
        out, err = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def say(self, *arguments: str, given: str | bytes = b"", bootstrap: bool = True) -> str:
        """What a command that succeeds prints."""
        done = self.run(*arguments, given=given, bootstrap=bootstrap)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tell(self, *arguments: str, given: str | bytes = b"", bootstrap: bool = True) -> Any:
        """The same, read as JSON."""
        return json.loads(self.say(*arguments, "--json", given=given, bootstrap=bootstrap))

    def refuse(self, *arguments: str, code: int = 1, given: str | bytes = b"", bootstrap: bool = True) -> str:
        """The one line of a command that is refused, with this exit code."""
        done = self.run(*arguments, given=given, bootstrap=bootstrap)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert done.stderr.startswith("penstock: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("penstock: ").strip()
