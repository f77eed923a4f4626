"""Secrets are compared in a time that tells nothing of them (the kind of CVE-2021-38153)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import gateway

ROOT: Final = Path(gateway.__file__).parent
SECRET: Final = re.compile(r"password|secret|token$|proof|hmac|digest|signature|stored_key|server_key|client_key|nonce")
PUBLIC: Final = re.compile(r"size|max|min|count|bytes|name|kind|by_token|id$")
"""What is told of a secret is none."""


def named(node: ast.expr) -> str:
    """The last name in an expression: of `a.b(c).d[e]` it is d."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner) | ast.Await(value=inner):
            return named(inner)
    return ""


def comparisons(text: str) -> Iterator[tuple[int, str]]:
    """Lines where something that has the name of a secret is compared by == or !=; not with a constant."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Compare) or not any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
            continue
        sides = [node.left, *node.comparators]
        names = [named(side) for side in sides]
        if any(isinstance(one, ast.Constant) for one in sides) or any(map(str.isupper, names)):
            continue
        for name in map(str.lower, names):
            if SECRET.search(name) and not PUBLIC.search(name):
                yield node.lineno, name


@pytest.mark.parametrize("room", ["security", "http", "dispatch", "network", "apis"])
def test_no_secret_is_compared_byte_by_byte(room: str) -> None:
    """Whoever compares one uses `compare_digest`."""
    found = [
        f"{file.relative_to(ROOT)}:{line} compares {name}"
        for file in sorted((ROOT / room).rglob("*.py"))
        for line, name in comparisons(file.read_text())
    ]
    assert not found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("given == self._token", 1),
        ("password != known.password", 2),
        ("hmac.digest(a, b) == proof", 2),
        ("len(proof) != len(signature)", 0),
        ("self._token is not None", 0),
        ("token == ''", 0),
        ("token_id == other", 0),
        ("way == TOKEN", 0),
    ],
)
def test_what_counts(text: str, count: int) -> None:
    """The search finds what it is for."""
    assert len(list(comparisons(text))) == count
