"""kill -9 of a node at a step of its own, while it takes, gives or gets a container: others go on from there."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from tests.faults.cluster.hurt_node import OF_A_TAKER, OF_AN_OWNER, STEPS
from tests.faults.cluster.nodes import TAKEOVER_S, WHOLE_WITHIN_S, Nodes, hurt_by

VICTIM: Final = 3
BESIDE: Final = 1
THIRD: Final = 2


class StepKill:
    """The node comes to that step, and no further. `prepare` before it, `heal` of the cluster behind it."""

    def __init__(self, nodes: Nodes, name: str, directory: Path) -> None:
        assert name in STEPS
        self._nodes, self._name = nodes, name
        self._armed = directory / f"armed for {name}"

    def prepare(self) -> None:
        """Start the node anew, so that it can be killed at its step; one that is to get containers starts later."""
        nodes = self._nodes
        nodes.kill(VICTIM)
        nodes.nodes[VICTIM].command = hurt_by("step", self._name, str(self._armed))
        if self._name in OF_A_TAKER or self._name in OF_AN_OWNER:
            nodes.start(VICTIM)
        if self._name in OF_AN_OWNER:
            nodes.until_whole()
        else:
            nodes.until_led()

    def strike(self) -> None:
        """Return when others lead all that it had, or was to have."""
        self._armed.touch()
        if self._name in OF_A_TAKER:
            self._taker_dies()
        elif self._name in OF_AN_OWNER:
            self._owner_dies()
        else:
            self._heir_dies()

    def _taker_dies(self) -> None:
        nodes = self._nodes
        nodes.kill(BESIDE)
        try:
            nodes.until_ended(VICTIM, TAKEOVER_S / 2)
        except AssertionError:  # the third node was faster with all of it
            nodes.kill(THIRD)
            nodes.until_ended(VICTIM, TAKEOVER_S)
            nodes.start(THIRD)
        self._died()
        nodes.until_led_by_others([BESIDE, VICTIM])

    def _owner_dies(self) -> None:
        running = self._nodes.nodes[VICTIM].running
        assert running is not None
        running.process.send_signal(signal.SIGTERM)
        self._nodes.until_ended(VICTIM, WHOLE_WITHIN_S)
        self._died()
        self._nodes.until_led_by_others([VICTIM])

    def _heir_dies(self) -> None:
        self._nodes.launch(VICTIM)
        self._nodes.until_ended(VICTIM, WHOLE_WITHIN_S)
        self._died()
        self._nodes.until_led_by_others([VICTIM])

    def _died(self) -> None:
        running = self._nodes.nodes[VICTIM].running
        assert running is not None
        code = running.process.returncode
        assert code == -signal.SIGKILL, f"it ended with {code} before {self._name!r}\n{self._nodes.log_tail()}"
