"""Hypothesis without its time limit for one example: two busy cores make any of them late."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", deadline=None)
settings.load_profile("core")
