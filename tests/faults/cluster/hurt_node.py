"""A node that is killed at a step of its own, or has a mistake planted in it. Nothing of this is in the gateway itself.

python -m tests.faults.cluster.hurt_node step NAME FILE -- serve …      kill -9 at that step, once the file is there
python -m tests.faults.cluster.hurt_node mistake NAME[,NAME] -- serve …
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import core.cluster.ownership
import core.log.objects.home
import core.log.objects.prefetch
import core.log.objects.reading
import core.log.objects.writer
from core.cluster.etcd.lease import Lease
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_registry import EtcdRegistry
from core.cluster.guard import Guard
from core.joining import Joining
from core.log.objects.format import log_prefix
from core.log.objects.home import LogObjects
from core.log.objects.protocol import Group, Outcome, Place, Takeover, Window
from core.membership import Membership
from core.moving import Mover
from gateway.cli.app import main as serve
from tier2.s3 import S3Storage
from tier2.storage import Storage


@dataclass(frozen=True)
class Step:
    """A call, and whether the process ends before it or behind it."""

    owner: Any
    call: str
    is_before: bool


def _steps(owner: Any, call: str, before: str, behind: str) -> dict[str, Step]:
    named = {before: Step(owner, call, True), behind: Step(owner, call, False)}
    return {name: step for name, step in named.items() if name}


OF_A_TAKER: Final[Mapping[str, Step]] = {
    **_steps(EtcdCoordination, "claim", "before the claim", "claimed"),
    **_steps(core.log.objects.reading, "encode_fence", "before the fence", ""),
    **_steps(Takeover, "has_put", "fenced", ""),
    **_steps(EtcdCoordination, "confirm", "before the confirmation", "confirmed"),
    **_steps(Joining, "serve", "", "serving"),
}
OF_AN_OWNER: Final[Mapping[str, Step]] = {
    **_steps(Joining, "prepare", "before the last checkpoint", "checkpoint stored"),
    **_steps(EtcdCoordination, "reserve_epoch", "", "epoch reserved"),
    **_steps(Joining, "seal", "appends stopped", ""),
    **_steps(LogObjects, "fence", "log settled", "log ended"),
    **_steps(EtcdCoordination, "hand_over", "", "claim handed over"),
    **_steps(Joining, "leave", "", "closed"),
}
OF_AN_HEIR: Final[Mapping[str, Step]] = {
    **_steps(EtcdCoordination, "tell_warm", "read ahead", "warm"),
}
OF_A_MOVER: Final[Mapping[str, Step]] = {
    **_steps(EtcdCoordination, "ask", "", "target asked for"),
    **_steps(Mover, "_begin", "target there", "arrived"),
    **_steps(Mover, "_settled", "copied", "state there"),
    **_steps(EtcdRegistry, "change", "before the decision", "decided"),
    **_steps(Mover, "_arrived", "followed", "arrival ended"),
}
STEPS: Final = {**OF_A_TAKER, **OF_AN_OWNER, **OF_AN_HEIR}


def end_at(step: Step, armed: Path) -> None:
    """Have the process killed at this step, once the file is there."""
    call = getattr(step.owner, step.call)

    def end() -> None:
        if armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def made(*arguments: Any, **named: Any) -> Any:
        if step.is_before:
            end()
        found = call(*arguments, **named)
        if not step.is_before:
            end()
        return found

    async def made_later(*arguments: Any, **named: Any) -> Any:
        if step.is_before:
            end()
        found = await call(*arguments, **named)
        if not step.is_before:
            end()
        return found

    setattr(step.owner, step.call, made_later if inspect.iscoroutinefunction(call) else made)


# Mistakes


def _plant(owner: object, name: str, mistake: object) -> None:
    """What is planted has to take the place of something: else nothing is wrong, and nothing will be found."""
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, mistake)


def walk_in_sleep() -> None:
    """It never hears that its lease has ended, and answers reads and writes as an owner does."""
    _plant(core.cluster.ownership, "_stands", lambda claim, view: True)
    _plant(Lease, "is_fresh", lambda self: True)
    _plant(Membership, "_is_ours", lambda self, container_id: container_id in self._claims)


def delete_fences() -> None:
    """As a naive truncation: everything below the checkpoint goes."""

    async def log_before(storage: Storage, container: int, lsn: int) -> list[str]:
        keys = [info.key async for info in storage.list(log_prefix(container))]
        return [key for key in keys if int(key.rpartition("/")[2]) < lsn]

    _plant(core.log.objects.home, "_log_before", log_before)


def ignore_conditions() -> None:
    """The store takes each put of the log, whatever lies there."""
    put_new = S3Storage.put_new

    async def put(self: S3Storage, key: str, data: Any, *, token: str = "") -> Any:
        if key.startswith("log/"):
            return await self.put(key, data, token=token)
        return await put_new(self, key, data, token=token)

    _plant(S3Storage, "put_new", put)


def name_by_sequence() -> None:
    """The epoch is in no name of the log's objects."""

    def log_key(container: int, place: Place) -> str:
        return f"{log_prefix(container)}{0:020d}/{place.lsn:020d}"

    for module in (core.log.objects.home, core.log.objects.prefetch, core.log.objects.reading, core.log.objects.writer):
        _plant(module, "log_key", log_key)


def trust_in_claims() -> None:
    """Nobody asks the coordinator between a put's answer and the acknowledgement."""

    async def is_ours(self: Guard, container: int, epoch: int) -> bool:
        return True

    _plant(Guard, "is_ours", is_ours)


def acknowledge_out_of_order() -> None:
    """A put is acknowledged with all before it as soon as it alone is stored."""

    class AtOnce(Window):
        def ended(self, group: Group, outcome: Outcome) -> int | None:
            if self.is_deposed or outcome is not Outcome.STORED:
                return super().ended(group, outcome)
            self._puts = deque(put for put in self._puts if put.last_lsn > group.last_lsn)
            self.stored_lsn = max(self.stored_lsn, group.last_lsn)
            return self.stored_lsn

    _plant(core.log.objects.writer, "Window", AtOnce)


MISTAKES: Final[Mapping[str, Callable[[], None]]] = {
    "sleepwalker": walk_in_sleep,
    "fences": delete_fences,
    "conditions": ignore_conditions,
    "names": name_by_sequence,
    "guard": trust_in_claims,
    "order": acknowledge_out_of_order,
}


def main() -> None:
    what, name, *rest = sys.argv[1:]
    own, arguments = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    if what == "step":
        end_at((STEPS | OF_A_MOVER)[name], Path(own[0]))
    else:
        for one in name.split(","):
            MISTAKES[one]()
    sys.argv[1:] = arguments
    serve()


if __name__ == "__main__":
    main()
