"""AlterUserScramCredentials (key 51), version 0 (KIP-554): makes, changes and deletes users' credentials.

No listener asks for SASL, so no credential is made. A change that Kafka refuses is refused in its words; one that it
would keep, with UNSUPPORTED_SASL_MECHANISM. Salts and salted passwords are not read. Each user gets one result: the
first fault.
"""

import enum
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import told
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

ITERATIONS_MIN: Final = 4_096
ITERATIONS_MAX: Final = 16_384


class Mechanism(enum.IntEnum):
    SCRAM_SHA_256 = 1
    SCRAM_SHA_512 = 2


MECHANISMS: Final = frozenset(Mechanism)
NAMELESS: Final = Refusal(ErrorCode.unacceptable_credential, "Username must not be empty")
UNKNOWN_MECHANISM: Final = Refusal(ErrorCode.unsupported_sasl_mechanism, "Unknown SCRAM mechanism")
TOO_FEW: Final = Refusal(ErrorCode.unacceptable_credential, "Too few iterations")
TOO_MANY: Final = Refusal(ErrorCode.unacceptable_credential, "Too many iterations")
NOT_THERE: Final = Refusal(ErrorCode.resource_not_found, "Attempt to delete a user credential that does not exist")
TWICE: Final = Refusal(ErrorCode.duplicate_resource, "A user credential cannot be altered twice in the same request")
NO_SASL: Final = Refusal(
    ErrorCode.unsupported_sasl_mechanism, "No listener of this broker asks for SASL, so it keeps no credentials."
)


async def alter_user_scram_credentials(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.ALTER, ResourceType.CLUSTER)
    outcomes: dict[str, Refusal] = {}
    async for deletion in ctx.paced(request.deletions):
        outcomes.setdefault(deletion.name, _not_deleted(deletion))
    wanted: set[str] = set()
    async for upsertion in ctx.paced(request.upsertions):
        name = upsertion.name
        if name in wanted and outcomes[name] is NO_SASL:
            outcomes[name] = TWICE
        elif name not in outcomes:
            outcomes[name] = _not_made(upsertion)
            wanted.add(name)
    return {"results": [{"user": name, **told(refusal)} for name, refusal in outcomes.items()]}


def _not_deleted(deletion: Message) -> Refusal:
    return _fault(deletion) or NOT_THERE


def _not_made(upsertion: Message) -> Refusal:
    if fault := _fault(upsertion):
        return fault
    if upsertion.iterations < ITERATIONS_MIN:
        return TOO_FEW
    if upsertion.iterations > ITERATIONS_MAX:
        return TOO_MANY
    return NO_SASL


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
