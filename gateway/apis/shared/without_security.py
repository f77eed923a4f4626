"""What a broker says that has listeners without security: nobody proves who he is, and nobody is kept from anything.

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
"""To what asks for ACLs, and to what makes or removes some."""

NOT_IN_THIS_STATE: Final = ErrorCode.illegal_sasl_state
"""To SASL on a listener that does not ask for it, as on one where it is over."""

NO_TOKENS: Final = ErrorCode.delegation_token_request_not_allowed
"""To what concerns delegation tokens: they need a connection that says whose it is."""
NO_TIME: Final = -1
"""A token's time, where there is no token."""
