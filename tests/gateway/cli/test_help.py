"""Help texts: every command's flags, forms, order and words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from gateway.cli.app import add_tools, app

pytestmark = pytest.mark.slow

GOLDEN: Final = Path(__file__).parent / "golden" / "help.txt"
"""What `penstock COMMAND --help` prints, one after another. `python -m tests.gateway.cli.test_help` writes it again."""
COLUMNS: Final = 78
"""As on a terminal of 80 or more."""
COMMANDS: Final = (
    *("", "serve", "recover", "config", "version"),
    *("streams", "streams ls", "streams show", "streams scale", "streams move", "streams seal"),
    *("tier2", "tier2 ls", "tier2 verify", "tier2 init"),
    *("users", "users add", "users delete", "users list", "users hash"),
    "bench",
    *("topics", "topics list", "topics show", "topics create", "topics alter", "topics delete", "topics grow"),
    *("produce", "consume", "groups", "groups lag", "groups reset", "groups delete", "configs", "configs diff"),
    *("acls", "acls add", "credentials", "credentials add", "quotas", "quotas set", "cluster", "cluster health"),
    *("cluster status", "cluster rebalance", "cluster finalize", "cluster rebuild", "cluster move", "cluster drain"),
    "cluster forget",
    *("profile", "profile create"),
    *("doctor", "debug", "debug bundle"),
)


def help_texts() -> str:
    """All of them, as a wide terminal shows them."""
    add_tools()
    runner = CliRunner()
    texts = []
    for command in COMMANDS:
        shown = runner.invoke(app, [*command.split(), "--help"], prog_name="penstock", terminal_width=COLUMNS)
        assert shown.exit_code == 0, shown.output
        texts.append(f"$ penstock {command} --help\n{shown.output}")
    return "".join(texts)


def test_help() -> None:
    """A flag that comes, goes or changes its words changes the golden text, and nothing else does."""
    assert help_texts() == GOLDEN.read_text()


if __name__ == "__main__":
    GOLDEN.write_text(help_texts())
