"""The configuration keys of the authorizer, by Kafka's names."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field, field_validator

STANDARD_AUTHORIZER: Final = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


class AuthorizerKeys(BaseModel):
    """Part of `Config`."""

    authorizer_class_name: str = Field(
        "",
        description="Empty: every client may do everything. "
        f"{STANDARD_AUTHORIZER}: ACLs and super.users decide, as in Kafka. No class is loaded.",
        json_schema_extra={"allowed": f"{STANDARD_AUTHORIZER}, or nothing"},
    )
    super_users: str = Field(
        "",
        description="Principals that may do everything, separated by semicolons: User:admin;User:CN=ops,O=example.",
        json_schema_extra={"allowed": "TYPE:NAME, separated by semicolons"},
    )
    allow_everyone_if_no_acl_found: bool = Field(
        False,
        description="A resource that no ACL is about is open to everyone; else it is closed to all but super.users.",
    )
    acls_max: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of ACLs, some 1 KB each; further ones are refused with POLICY_VIOLATION.",
    )

    @field_validator("authorizer_class_name")
    @classmethod
    def _is_authorizer(cls, value: str) -> str:
        if value.strip() not in ("", STANDARD_AUTHORIZER):
            raise ValueError("no other authorizer is known, and none is loaded by its class")
        return value.strip()

    @field_validator("super_users")
    @classmethod
    def _are_principals(cls, value: str) -> str:
        for one in value.split(";"):
            if one.strip() and ":" not in one:
                raise ValueError(f"{one.strip()[:100]!r} has no type: write User:NAME")
        return value
