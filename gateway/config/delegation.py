"""The configuration keys of delegation tokens, by Kafka's names."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr

from gateway.config.fields import LONG_MAX


class DelegationKeys(BaseModel):
    """Part of `Config`."""

    delegation_token_secret_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="The key from which the secrets of delegation tokens are made; whoever knows it can come in as "
        "the owner of each. With another key all tokens are of no use. Not set: there are no tokens.",
    )
    delegation_token_max_lifetime_ms: int = Field(
        604_800_000, ge=1, le=LONG_MAX, description="Longest life of a delegation token, however often it is renewed."
    )
    delegation_token_expiry_time_ms: int = Field(
        86_400_000, ge=1, le=LONG_MAX, description="Time after which a delegation token ends unless it is renewed."
    )
    delegation_token_expiry_check_interval_ms: int = Field(
        3_600_000,
        ge=1,
        le=LONG_MAX,
        description="Pause between two searches for delegation tokens that have ended.",
    )
