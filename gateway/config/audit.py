"""The configuration keys of the audit log."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, Field

STDERR: Final = "stderr"


class AuditKeys(BaseModel):
    """Part of `Config`."""

    audit_log: str = Field(
        STDERR,
        description="Where the audit log goes, a JSON object a line: denied requests, authentications and changes. "
        "stderr, or a file that is appended to; empty: nowhere. Without an authorizer there is nothing to tell.",
        json_schema_extra={"allowed": "stderr, the path of a file, or nothing"},
    )
    audit_log_level: Literal["info", "debug"] = Field(
        "info",
        description="info: what was denied and what was changed. debug: what was allowed, too: each decision "
        "then costs a line, and none is remembered.",
    )
