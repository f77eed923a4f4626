"""A certificate's subject as text, as Java writes it: RFC 2253, most specific part first.

Invariant: two different names never give one text. Values that are no text, or of attributes without a short name, are
written as the hexadecimal form of their DER, as X500Principal.getName does, so that ACLs written for Kafka match.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

DN_CHARS_MAX: Final = 4_096
_KEYWORDS: Final[dict[ObjectIdentifier, str]] = {
    NameOID.COMMON_NAME: "CN",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
}
"""RFC 2253, section 2.3: the only attributes that have a short name there."""
_ESCAPED: Final = ',=+<>#;"\\'
_LONG: Final = 0x80
"""A DER length from here on is the number of bytes that hold the length."""


def rfc2253(name: x509.Name) -> str:
    """The name as text. Raises ValueError for one that is longer than DN_CHARS_MAX."""
    parts = ["+".join(_attribute(one) for one in rdn) for rdn in reversed(list(name.rdns))]
    text = ",".join(parts)
    if len(text) > DN_CHARS_MAX:
        raise ValueError(f"a distinguished name of {len(text)} characters, at most {DN_CHARS_MAX} are read")
    return text


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    keyword = _KEYWORDS.get(attribute.oid)
    if keyword is None or not isinstance(attribute.value, str):
        return f"{attribute.oid.dotted_string}=#{_der(attribute).hex()}"
    return f"{keyword}={_escaped(attribute.value)}"


def _escaped(value: str) -> str:
    """Blanks at both ends, and what has a meaning in a name, stand behind a backslash; a zero byte is `\\00`."""
    start, end = len(value) - len(value.lstrip(" ")), len(value.rstrip(" "))
    found: list[str] = []
    for position, char in enumerate(value):
        if char == "\0":
            found.append("\\00")
        elif char in _ESCAPED or (char == " " and not start <= position < end):
            found.append(f"\\{char}")
        else:
            found.append(char)
    return "".join(found)


def _der(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    """The value's DER: what is left of a name that has only this attribute, behind its type."""
    der = x509.Name([attribute]).public_bytes()
    at = 0
    for _ in ("name", "set", "attribute"):
        at, _ = _content(der, at)
    start, size = _content(der, at)
    return der[start + size :]


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins, and its size."""
    first = der[at + 1]
    if first < _LONG:
        return at + 2, first
    digits = first - _LONG
    return at + 2 + digits, int.from_bytes(der[at + 2 : at + 2 + digits], "big")
