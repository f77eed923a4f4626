"""`penstock acls`: list, add and delete rights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import typer

from gateway.cli.client.cluster import Acl, counted
from gateway.cli.client.session import Session, connected
from gateway.cli.kafka.several import reasons
from gateway.cli.options import Yes
from gateway.cli.output import Output
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

app = typer.Typer(name="acls", help="List, add and delete rights (ACLs).", no_args_is_help=True, rich_markup_mode=None)
_OPERATIONS = (
    *("any", "all", "read", "write", "create", "delete", "alter", "describe", "cluster_action"),
    *("describe_configs", "alter_configs", "idempotent_write", "create_tokens", "describe_tokens"),
    "two_phase_commit",
)
_RESOURCES = ("any", "topic", "group", "cluster", "transactional_id", "delegation_token", "user")
Principal = Annotated[
    str | None, typer.Option("--principal", metavar="User:NAME", help="Whose rights; User:* is everybody.")
]
Host = Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="From where; * is everywhere.")]
Operation = Annotated[
    str, typer.Option("--operation", metavar="NAME", help="read, write, create, describe, alter, delete, all, ...")
]
Resource = Annotated[
    str | None,
    typer.Option(
        "--resource", metavar="KIND[:NAME]", help="topic, group, cluster, transactional_id or user, and which one."
    ),
]
Prefixed = Annotated[bool, typer.Option("--prefixed", help="The resource's name is the beginning of names.")]
Deny = Annotated[bool, typer.Option("--deny", help="Denied instead of allowed.")]


@app.command("list")
@connected
def list_acls(
    session: Session,
    principal: Principal = None,
    host: Host = None,
    operation: Operation = "any",
    resource: Resource = None,
) -> None:
    """List rights, all or those that match."""
    found = session.cluster.acls(_filter(principal, host, operation, resource))
    _show(session, found)


@app.command()
@connected
def add(
    session: Session,
    principal: Annotated[str, typer.Option("--principal", metavar="User:NAME", help="Who; User:* is everybody.")],
    operation: Operation,
    resource: Annotated[
        str, typer.Option("--resource", metavar="KIND:NAME", help="topic:orders, group:billing, cluster, ...")
    ],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="From where; * is everywhere.")] = "*",
    prefixed: Prefixed = False,
    deny: Deny = False,
) -> None:
    """Add a right."""
    kind, name = _resource(resource)
    if kind == "cluster":
        name = name or "kafka-cluster"
    if kind == "any" or name is None:
        raise Refused(f"--resource {resource[:200]!r}: name one, such as topic:orders", ExitCode.CONFIGURATION)
    pattern: Literal["prefixed", "literal"] = "prefixed" if prefixed else "literal"
    acl = Acl(principal, host, _operation(operation), "deny" if deny else "allow", kind, name, pattern)
    session.cluster.add_acl(acl)
    if session.output.as_json:
        session.output.result(_told(acl))
    else:
        session.output.line(f"{principal}: {acl.permission} {acl.operation} on {kind} {name} from {host}")


@app.command()
@connected
def delete(
    session: Session,
    principal: Principal = None,
    host: Host = None,
    operation: Operation = "any",
    resource: Resource = None,
    yes: Yes = False,
) -> None:
    """Delete all rights that match; shows them first."""
    matching = _filter(principal, host, operation, resource)
    found = session.cluster.acls(matching)
    if not found:
        raise Refused("no right matches")
    if not session.output.as_json:
        _show(session, found)
    session.output.confirm(f"{counted(len(found), 'right')} are deleted", yes=yes)
    tell_deleted(session.output, *session.cluster.delete_acls(matching))


def tell_deleted(output: Output, deleted: Sequence[Acl], refused: Mapping[Acl, str]) -> None:
    """Say which rights are deleted; `refused` has the reasons of the others. Raises Refused if there are any."""
    if output.as_json and (deleted or len(refused) != 1):
        gone = [_told(one) for one in deleted]
        output.result(gone + [_told(one) | {"refused": why} for one, why in refused.items()])
    elif deleted or not refused:
        output.line(f"{counted(len(deleted), 'right')} deleted")
    if refused:
        raise Refused(reasons(refused.values()))


def _show(session: Session, acls: list[Acl]) -> None:
    if session.output.as_json:
        session.output.result([_told(one) for one in acls])
        return
    columns = ("principal", "permission", "operation", "resource", "name", "pattern", "host")
    rows = [
        (one.principal, one.permission, one.operation, one.resource, one.name, one.pattern, one.host) for one in acls
    ]
    session.output.table(columns, rows)


def _told(acl: Acl) -> dict[str, str | None]:
    return {
        "principal": acl.principal,
        "permission": acl.permission,
        "operation": acl.operation,
        "resource": acl.resource,
        "name": acl.name,
        "pattern": acl.pattern,
        "host": acl.host,
    }


def _filter(principal: str | None, host: str | None, operation: str, resource: str | None) -> Acl:
    kind, name = _resource(resource) if resource is not None else ("any", None)
    return Acl(principal, host, _operation(operation), "any", kind, name, "any")


def _resource(text: str) -> tuple[str, str | None]:
    kind, colon, name = text.partition(":")
    known = kind.lower().replace("-", "_")
    if known not in _RESOURCES:
        raise Refused(f"--resource {text[:200]!r}: allowed: {', '.join(_RESOURCES)}", ExitCode.CONFIGURATION)
    return known, name if colon else None


def _operation(text: str) -> str:
    known = text.lower().replace("-", "_")
    if known not in _OPERATIONS:
        raise Refused(f"--operation {text[:100]!r}: allowed: {', '.join(_OPERATIONS)}", ExitCode.CONFIGURATION)
    return known
