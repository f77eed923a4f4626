"""Distinguished names, and the users that rules make of them, by Kafka's SslPrincipalMapper and Java's X500Principal.

`python -m tests.likeness.principals` asks both again and writes `principals.json`: Kafka's answers in the order of the
questions.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from compat_tests.harness.system import JARS, JVM_FLAGS
from gateway.security.distinguished_names import rfc2253
from gateway.security.principal_mapping import WrongRule, parse_rules, user_of

HERE: Final = Path(__file__).parent
ANSWERS: Final = HERE / "principals.json"
SEED: Final = 20_261_130
NAMES: Final = 200
USERS: Final = 300
ASKED_SECONDS_MAX: Final = 120
_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
REFUSED, NOBODY, IS = "refuses the rules", "has no rule", "is "


class Question(NamedTuple):
    """What is asked of Java; for a name in DER, the name as it is read from there."""

    asked: dict[str, str]
    name: x509.Name | None = None


OIDS: Final = tuple(
    getattr(NameOID, name)
    for name in (
        *("COMMON_NAME", "LOCALITY_NAME", "STATE_OR_PROVINCE_NAME", "ORGANIZATION_NAME", "ORGANIZATIONAL_UNIT_NAME"),
        *("COUNTRY_NAME", "STREET_ADDRESS", "DOMAIN_COMPONENT", "USER_ID", "EMAIL_ADDRESS", "GIVEN_NAME", "TITLE"),
    )
)
PIECES: Final = ("a", "Tom", " ", ",", "=", "+", "<", ">", "#", ";", '"', "\\", "/", "ä", "O=x", "x y")
PARTS: Final = (
    *("DEFAULT", "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L", "RULE:^CN=(.*?),OU=(.*?)$/$1@$2/U", "RULE:CN=([^,]+)/$1/"),
    *("RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/U", r"RULE:^CN=(.*)\/admin$/$1/", "RULE:^CN=(a)?(.*)$/$1$2/"),
    *("RULE:^CN=(?<who>[^,]*).*$/${who}/", "RULE:^CN=(.{2,3})$/$1/", "RULE:.*/all/", "RULE:(/x/", "RULE:a", "DEFAULTX"),
    *("RULE:^CN=([^,]*),?.*$/$1/l", "RULE:^cn=(.*)$/$1/", "RULE:^([^=]+)=([^,]+).*$/$2-$1/L", ""),
)
JOINS: Final = (",", ", ", " ,", "\n,")
SUBJECTS: Final = (
    *("CN=Tom", "CN=Tom,OU=ServiceUsers,O=Org,C=US", "cn=tom", "CN=Tom/admin", "CN=ab", "CN=Duke,OU=SME"),
    *("OU=JavaSoft,O=Sun Microsystems,C=US,CN=anna", "OU=x", r"CN=a\,O\=b", "CN=", "UID=u,DC=com", "CN=ÄÖ,OU=x"),
)


def questions(seed: int) -> Iterator[Question]:
    """Always the same ones of a seed: names in DER, then rules with names."""
    chance = random.Random(seed)
    for _ in range(NAMES):
        parts = [
            x509.RelativeDistinguishedName([_attribute(chance, oid) for oid in chance.sample(OIDS, k=size)])
            for size in chance.choices((1, 1, 1, 2), k=chance.randint(1, 4))
        ]
        read = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts)).sign(_KEY, None).subject
        yield Question({"der": read.public_bytes().hex()}, read)
    for _ in range(USERS):
        rules = chance.choice(JOINS).join(chance.choices(PARTS, k=chance.randint(1, 3)))
        yield Question({"rules": rules, "name": chance.choice(SUBJECTS)})


def _attribute(chance: random.Random, oid: x509.ObjectIdentifier) -> x509.NameAttribute[str | bytes]:
    if oid == NameOID.COUNTRY_NAME:
        return x509.NameAttribute(oid, chance.choice(("DE", "US")))
    value = "".join(chance.choices(PIECES, k=chance.randint(1, 4)))
    if oid in (NameOID.DOMAIN_COMPONENT, NameOID.EMAIL_ADDRESS):
        value = value.replace("ä", "a")  # their text is ASCII
    return x509.NameAttribute(oid, value)


def asked(some: list[Question]) -> list[str]:
    """The answers of Kafka's and Java's own classes."""
    command = ["java", *JVM_FLAGS, "-cp", str(JARS / "*"), str(HERE / "Principals.java")]
    given = "".join(json.dumps(one.asked) + "\n" for one in some)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=ASKED_SECONDS_MAX)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]


def ours(question: Question) -> str:
    """Penstock's answer."""
    if question.name is not None:
        return rfc2253(question.name)
    try:
        rules = parse_rules(question.asked["rules"])
    except WrongRule:
        return REFUSED
    user = user_of(rules, question.asked["name"])
    return NOBODY if user is None else f"{IS}{user}"


def main() -> None:
    answers = asked(list(questions(SEED)))
    lines = ",\n".join(f"  {json.dumps(answer)}" for answer in answers)
    ANSWERS.write_text(f'{{\n "seed": {SEED},\n "answers": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
