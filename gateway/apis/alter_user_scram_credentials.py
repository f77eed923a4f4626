"""AlterUserScramCredentials (key 51), version 0 (KIP-554): makes, changes and deletes users' credentials.

All changes without a fault are made in one durable step, or, if they are many, `AT_ONCE` in each. Each user gets one
result: the first fault, in Kafka's words. Whether there is something to delete is judged by what all processes have
answered, and once more in the step itself. The client sends a salted password, of which only the keys of SCRAM are
kept; none of it is logged.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal, caught_up, refusal_of
from gateway.security.acls import Operation, ResourceType
from gateway.security.scram import (
    ITERATIONS_MAX,
    ITERATIONS_MIN,
    NAME_CHARS_MAX,
    ScramCredential,
    credential_of_salted,
)
from gateway.security.scram_users import MECHANISMS, Change, ScramUsers
from gateway.wire.message import Message

logger = logging.getLogger(__name__)

AT_ONCE: Final = 1_000
"""Credentials that are changed in one step, which takes some milliseconds."""
SALT_BYTES_MAX: Final = 1_024
NAMELESS: Final = Refusal(ErrorCode.unacceptable_credential, "Username must not be empty")
UNKNOWN_MECHANISM: Final = Refusal(ErrorCode.unsupported_sasl_mechanism, "Unknown SCRAM mechanism")
TOO_FEW: Final = Refusal(ErrorCode.unacceptable_credential, "Too few iterations")
TOO_MANY: Final = Refusal(ErrorCode.unacceptable_credential, "Too many iterations")
NOT_THERE: Final = Refusal(ErrorCode.resource_not_found, "Attempt to delete a user credential that does not exist")
TWICE: Final = Refusal(ErrorCode.duplicate_resource, "A user credential cannot be altered twice in the same request")
LOG_IS_ELSEWHERE: Final = Refusal(
    ErrorCode.policy_violation, "log.store = object: credentials are kept in the log, and must not leave the machine"
)
TOO_LONG: Final = Refusal(
    ErrorCode.unacceptable_credential,
    f"A name has at most {NAME_CHARS_MAX} characters, a salt and a salted password at most {SALT_BYTES_MAX} bytes",
)


async def alter_user_scram_credentials(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    users = ctx.services.scram_users
    if request.deletions:
        await caught_up(ctx.services.store)
    refusals: dict[str, Refusal] = {}
    changes: dict[str, Change] = {}
    async for deletion in ctx.paced(request.deletions):
        _add(refusals, changes, deletion, _not_deleted(users, deletion))
    async for upsertion in ctx.paced(request.upsertions):
        _add(refusals, changes, upsertion, _not_made(upsertion))
    if not users.are_kept:
        refusals |= dict.fromkeys(changes, LOG_IS_ELSEWHERE)
        changes.clear()
    every = list(changes.items())
    async for first in ctx.paced(range(0, len(every), AT_ONCE)):
        for name, refusal in (await _changed(ctx, dict(every[first : first + AT_ONCE]))).items():
            refusals[name] = refusal
            del changes[name]
    results = [{"user": name, "error_code": 0, "error_message": None} async for name in ctx.paced(changes)]
    results += [{"user": name, **told(refusal)} async for name, refusal in ctx.paced(refusals.items())]
    return {"results": results}


async def _changed(ctx: RequestContext, changes: Mapping[str, Change]) -> dict[str, Refusal]:
    """Make changes, by the users' names, in one durable step; why some could not be made."""
    try:
        missing = await ctx.services.scram_users.change(changes.values())
    except StoreError as failed:
        return dict.fromkeys(changes, refusal_of(failed))
    except Refusal as refused:
        return dict.fromkeys(changes, refused)
    refusals = {name: NOT_THERE for name, _, _ in missing}
    made = [change for name, change in changes.items() if name not in refusals]
    async for user, mechanism, credential in ctx.paced(made):
        what = "deleted" if credential is None else "set"
        extra = {"user": user[:100], "mechanism": mechanism, "by": str(ctx.principal)[:250]}
        logger.info("a user's credential was %s", what, extra=extra)
        ctx.tell(f"credential {what}", user=user, mechanism=str(mechanism))
    return refusals


def _add(refusals: dict[str, Refusal], changes: dict[str, Change], change: Message, refusal: Refusal | None) -> None:
    """Take a change, or the reason against it: a user's first fault counts, and a second change is one."""
    name = change.name
    if name in refusals:
        return
    if changes.pop(name, None) is not None:
        refusals[name] = TWICE
    elif refusal is not None:
        refusals[name] = refusal
    else:
        changes[name] = (name, MECHANISMS[change.mechanism], _credential(change))


def _credential(change: Message) -> ScramCredential | None:
    """The credential of an upsertion; None for a deletion."""
    if "iterations" not in change.schema_fields:
        return None
    mechanism = MECHANISMS[change.mechanism]
    return credential_of_salted(mechanism, bytes(change.salt), bytes(change.salted_password), change.iterations)


def _not_deleted(users: ScramUsers, deletion: Message) -> Refusal | None:
    if fault := _fault(deletion):
        return fault
    return None if users.get(MECHANISMS[deletion.mechanism], deletion.name) else NOT_THERE


def _not_made(upsertion: Message) -> Refusal | None:
    if fault := _fault(upsertion):
        return fault
    if upsertion.iterations < ITERATIONS_MIN:
        return TOO_FEW
    if upsertion.iterations > ITERATIONS_MAX:
        return TOO_MANY
    size = max(len(upsertion.salt), len(upsertion.salted_password))
    if len(upsertion.name) > NAME_CHARS_MAX or size > SALT_BYTES_MAX:
        return TOO_LONG
    return None


def _fault(change: Message) -> Refusal | None:
    if not change.name:
        return NAMELESS
    if change.mechanism not in MECHANISMS:
        return UNKNOWN_MECHANISM
    return None


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    users = dict.fromkeys(change.name for change in (*request.deletions, *request.upsertions))
    return {"results": [{"user": name, "error_code": code} for name in users]}


API: Final = Api(
    key=51,
    name="AlterUserScramCredentials",
    versions=range(1),
    handle=alter_user_scram_credentials,
    error_response=_error_response,
)
