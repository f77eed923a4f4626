"""Make a history and judge it: python -m compat_tests.histories --seconds 600 --faults kill,pause,scale"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from compat_tests.harness.system import Kafka, Penstock, System
from compat_tests.histories.faults import Faults
from compat_tests.histories.workload import Workload

BROKEN: Final = "compat_tests.histories.broken_gateway"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.histories", description=__doc__)
    parser.add_argument("--system", choices=("penstock", "kafka"), default="penstock")
    parser.add_argument("--broken", metavar="HOW", help=f"a Penstock with a planted bug: see {BROKEN}")
    parser.add_argument("--containers", default="1", help="of the Penstock (default: 1)")
    parser.add_argument("--workers", default="1", help="of the Penstock (default: 1)")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument(
        "--faults", default="kill,pause,scale", help="any of kill, kill_worker, pause, scale; empty for none"
    )
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**9)))
    parser.add_argument("--history", type=Path, help="write the history here, one event a line")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        system: System
        if given.system == "kafka":
            system = Kafka(Path(directory))
        elif given.broken:
            system = Penstock(Path(directory), launcher=(sys.executable, "-m", BROKEN, given.broken, "--"))
        else:
            system = Penstock(Path(directory), {"containers": given.containers, "workers": given.workers})
        system.start()
        try:
            faults = [name for name in given.faults.split(",") if name]
            faults_on = Faults.on(system, faults, given.seed)
            workload = Workload(
                system.address, given.seed, "history", faults_on, epoch_may_rise=given.system == "kafka"
            )
            result = workload.run(given.seconds)
        finally:
            system.kill()
    if given.history:
        result.history.write_to(given.history)
    print(f"seed {given.seed}, {len(result.history.events)} events, {result}")
    return 0 if result.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
