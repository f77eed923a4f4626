"""Answers of a broker without security: clients prove no identity, and nothing is forbidden to them.

Keeps: one place knows that there is no authorizer, no SASL mechanism and no token, so that the APIs about them agree,
and answer in the words of a Kafka that was started without them.
"""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal

USER: Final = "User"
ANONYMOUS: Final = "ANONYMOUS"
"""The principal of every connection: its type, and its name."""

NOTHING_TO_DESCRIBE: Final = Refusal(ErrorCode.security_disabled, "No Authorizer is configured on the broker")
NOTHING_TO_CHANGE: Final = Refusal(ErrorCode.security_disabled, "No Authorizer is configured.")
"""The refusal of reading ACLs, and of making or removing some."""

NOT_IN_THIS_STATE: Final = ErrorCode.illegal_sasl_state
"""The refusal of SASL on a listener that does not ask for it, or where it is over."""
