"""The configuration keys of the log lines on stderr."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class LogLineKeys(BaseModel):
    """Part of `Config`."""

    logging_format: Literal["text", "json"] = Field("text", description="Form of the log lines on stderr.")
    logging_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
