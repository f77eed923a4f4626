"""The configuration as a list: filtered, by sections, and as a file that is read again."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.listing import as_toml_file, chosen
from gateway.config.loading import TITLES, describe, load


def test_file_to_start_from(tmp_path: Path) -> None:
    """The printed file is the same configuration when it is read, and tells what is set."""
    given_ones = ["num.partitions=3", "max.connections.per.ip=9", "tier2=off", "listeners=localhost:1,localhost:2"]
    config = load(environ={}, assignments=given_ones)
    file = tmp_path / "penstock.toml"
    file.write_text(as_toml_file(chosen(describe(config), "", changed=False)))

    again = load(file, environ={})

    assert again.model_dump() == config.model_dump()
    assert {row["key"] for row in chosen(describe(again), "", changed=True)} == {
        one.partition("=")[0] for one in given_ones
    }


def test_no_secret() -> None:
    """No secret is in the file."""
    config = load(environ={}, assignments=["http.token=open-sesame"])

    assert "open-sesame" not in as_toml_file(describe(config))


def test_sections() -> None:
    """Every key has a section, and keys of one section stand together."""
    sections = [row["section"] for row in chosen(describe(load(environ={})), "", changed=False)]

    assert list(dict.fromkeys(sections)) == list(dict.fromkeys(TITLES.values()))
    assert sections == sorted(sections, key=[*TITLES.values()].index)


@given(st.text(st.characters(exclude_characters="\0"), max_size=8))
def test_filter(text: str) -> None:
    """A filter keeps the keys that have the text in name or meaning."""
    rows = describe(load(environ={}))
    found = {row["key"] for row in chosen(rows, text, changed=False)}

    assert found == {row["key"] for row in rows if text.lower() in f"{row['key']}\0{row['doc']}".lower()}
