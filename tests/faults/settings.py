"""The duration and the dice of the fault tests."""

from __future__ import annotations

import os
import random
from typing import Final

SOAK: Final = bool(os.environ.get("SOAK"))
SEED: Final = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**9))


def scaled(in_ci: int, in_soak: int) -> int:
    return in_soak if SOAK else in_ci
