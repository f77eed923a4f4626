"""From a certificate's distinguished name to a user: the cases of Kafka's SslPrincipalMapperTest, and others' names."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.security.distinguished_names import DN_CHARS_MAX, rfc2253
from gateway.security.principal_mapping import WrongRule, parse_rules, user_of

RULES = (
    "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L, "
    "RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L, "
    "RULE:^cn=(.*?),ou=(.*?),dc=(.*?),dc=(.*?)$/$1@$2/U, "
    "RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/U, "
    "DEFAULT"
)


@pytest.mark.parametrize(
    ("rules", "name", "user"),
    [
        (RULES, "CN=Duke,OU=ServiceUsers,O=Org,C=US", "duke"),
        (RULES, "CN=Duke,OU=SME,O=mycp,L=Fulton,ST=MD,C=US", "duke@sme"),
        (RULES, "cn=duke,ou=sme,dc=mycp,dc=com", "DUKE@SME"),
        (RULES, "OU=JavaSoft,O=Sun Microsystems,C=US,CN=anna", "ANNA"),
        (RULES, "OU=JavaSoft,O=Sun Microsystems,C=US", "OU=JavaSoft,O=Sun Microsystems,C=US"),
        ("", "CN=a", None),
        (" ,\n,DEFAULT,", "CN=a", "CN=a"),
        ("DEFAULT", "CN=a", "CN=a"),
        ("RULE:^CN=([^,]+),OU=(.*)$/$1/", "CN=Tom,OU=x", "Tom"),
        ("RULE:^CN=([^,]+)$/$1/", "CN=Tom,OU=x", None),
        ("RULE:CN=([^,]+)/$1/", "CN=Tom,OU=x", None),  # a part is not the whole name
        (r"RULE:^CN=(.*)\/admin$/$1/", "CN=Tom/admin", "Tom"),
        (r"RULE:^CN=(.*)$/\$1/", "CN=Tom", "$1"),
        ("RULE:^CN=(?<who>.*)$/${who}x/U", "CN=Tom", "TOMX"),
        ("RULE:^CN=(a)?(.*)$/$1$2/", "CN=Tom", "Tom"),
        ("RULE:^CN=(.{2,3}),O=x$/$1/\n,DEFAULT", "CN=ab,O=x", "ab"),
        ("RULE:.*/all/", "CN=a", "allall"),
        ("RULE:CN=(.*?)/$1x/", "CN=Tom", "xTom"),  # the whole name matches, and the shortest match is replaced
    ],
)
def test_users(rules: str, name: str, user: str | None) -> None:
    """The first rule whose pattern matches the whole name gives the user."""
    assert user_of(parse_rules(rules), name) == user


@pytest.mark.parametrize(
    "rules",
    ["DEFAULTX", "RULE:a", "RULE:a/b", "RULE:a/b/X", "RULE:(/b/", "RULE:a/$1/", "RULE:a/${x}/", "DEFAULT DEFAULT"],
)
def test_rules_that_are_refused(rules: str) -> None:
    """A rule that cannot be read is refused when the gateway starts, not at a client's first connection."""
    with pytest.raises(WrongRule):
        parse_rules(rules)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ([("COUNTRY_NAME", "DE"), ("ORGANIZATION_NAME", "Acme"), ("COMMON_NAME", "a b")], "CN=a b,O=Acme,C=DE"),
        ([("COMMON_NAME", "a,O=b")], r"CN=a\,O\=b"),
        ([("COMMON_NAME", ' #"+\\<>; ')], r"CN=\ \#\"\+\\\<\>\;\ "),
        ([("COMMON_NAME", "a\0b")], r"CN=a\00b"),
        ([("DOMAIN_COMPONENT", "com"), ("USER_ID", "u")], "UID=u,DC=com"),
        ([("EMAIL_ADDRESS", "a@b"), ("COMMON_NAME", "a")], "CN=a,1.2.840.113549.1.9.1=#1603614062"),
        ([("COMMON_NAME", "Ä")], "CN=Ä"),
    ],
)
def test_names_as_java_writes_them(attributes: list[tuple[str, str]], text: str) -> None:
    """RFC 2253 as X500Principal.getName writes it: reversed, escaped, unknown attributes in hexadecimal DER."""
    name = x509.Name([x509.NameAttribute(getattr(NameOID, key), value) for key, value in attributes])
    assert rfc2253(name) == text


def test_a_part_of_several_values() -> None:
    """Values of one part are joined by a plus."""
    both = x509.RelativeDistinguishedName(
        [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.USER_ID, "b")]
    )
    assert rfc2253(x509.Name([both])) in ("CN=a+UID=b", "UID=b+CN=a")


def test_long_names_are_refused() -> None:
    """A name is bounded, so that no pattern works on it for long."""
    with pytest.raises(ValueError, match="at most"):
        rfc2253(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a" * 60)] * (DN_CHARS_MAX // 60)))


_VALUES = st.lists(
    st.tuples(
        st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.SERIAL_NUMBER, NameOID.USER_ID]),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=4,
)


@given(_VALUES, _VALUES)
def test_two_names_never_give_one_text(one: list[tuple], other: list[tuple]) -> None:  # type: ignore[type-arg]
    """Whatever stands in the values: nobody gets another's user by escapes."""
    texts = [rfc2253(x509.Name([x509.NameAttribute(*part) for part in parts])) for parts in (one, other)]
    assert (texts[0] == texts[1]) == (one == other)
