"""What is said of several things, without a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.client.cluster import Acl
from gateway.cli.client.kafka_python_rights import deleted_in
from gateway.cli.kafka import acls
from gateway.cli.kafka.several import REASONS_MAX, reasons, tell_deleted
from gateway.cli.output import Output
from gateway.cli.refused import Refused


def test_a_line_has_a_bound() -> None:
    """Many reasons are the first ones and a number."""
    assert reasons(["a"]) == "a"
    assert reasons([str(number) for number in range(REASONS_MAX)]) == "0; 1; 2"
    assert reasons([str(number) for number in range(REASONS_MAX + 7)]) == "0; 1; 2; and 7 more"


@pytest.mark.parametrize("as_json", [False, True])
def test_one_that_is_refused(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """A single thing that is refused leaves standard output empty, as every refusal does."""
    with pytest.raises(Refused, match="why"):
        tell_deleted(Output(as_json=as_json), ["a"], {"a": "why"})

    assert capsys.readouterr().out == ""


def right_of(principal: str, code: int = 0) -> dict[str, Any]:
    """A right in a broker's answer to a deletion."""
    what = {"resource_type": 2, "resource_name": "t", "pattern_type": 3, "operation": 3, "permission_type": 3}
    return what | {"principal": principal, "host": "*", "error_code": code, "error_message": "why" if code else None}


def deletion_of(*rights: dict[str, Any]) -> tuple[list[Acl], dict[Acl, str]]:
    return deleted_in({"filter_results": [{"error_code": 0, "error_message": None, "matching_acls": list(rights)}]})


def test_one_of_several_rights_is_not_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    """A broker may delete some of the rights that match and refuse others: each is told, in one document."""
    deleted, refused = deletion_of(right_of("User:a"), right_of("User:b", 29), right_of("User:c"))
    with pytest.raises(Refused, match=r"a right of User:b: .*why"):
        acls.tell_deleted(Output(as_json=True), deleted, refused)
    told = json.loads(capsys.readouterr().out)
    with pytest.raises(Refused):
        acls.tell_deleted(Output(as_json=False), deleted, refused)

    assert [(one["principal"], "refused" in one) for one in told] == [
        ("User:a", False),
        ("User:c", False),
        ("User:b", True),
    ]
    assert capsys.readouterr().out == "2 rights deleted\n"


def test_one_right_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It leaves standard output empty."""
    for as_json in (False, True):
        with pytest.raises(Refused):
            acls.tell_deleted(Output(as_json=as_json), *deletion_of(right_of("User:b", 29)))
    assert capsys.readouterr().out == ""
