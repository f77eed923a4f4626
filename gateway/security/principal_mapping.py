"""From a client certificate's distinguished name to a user: Kafka's `ssl.principal.mapping.rules`.

`DEFAULT` takes the whole name; `RULE:PATTERN/REPLACEMENT/[LU]` applies if the pattern matches the whole name. The first
rule that applies decides. As in Kafka every match within the name is replaced, so a pattern that also matches nothing
gives its replacement twice, and a text without rules applies to nobody. Patterns are Java's; what differs in Python is
translated. They are the operator's own, and names are bounded, so no client can choose a slow match.

Invariant: a name to which no rule applies has no user; nobody becomes somebody by a rule that does not fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_RULE: Final = r"RULE:((?:\\.|[^\\/])*)/((?:\\.|[^\\/])*)/([LU]?)"
_RULES: Final = re.compile(rf"\s*(?:(DEFAULT)|{_RULE})\s*(?:[,\n]|$)")
_BETWEEN: Final = re.compile(r"[\s,]*")
_GROUP: Final = re.compile(r"\\(.)|\$(\d)|\$\{(\w+)\}")


class WrongRule(ValueError):
    """The text of a rule cannot be read."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; without a pattern it is DEFAULT."""

    pattern: re.Pattern[str] | None = None
    replacement: str = ""
    case: str = ""

    def apply(self, name: str) -> str | None:
        """The user, or None if the rule does not fit."""
        if self.pattern is None:
            return name
        if self.pattern.fullmatch(name) is None:
            return None
        user = self.pattern.sub(self._replaced, name)
        return user.lower() if self.case == "L" else user.upper() if self.case == "U" else user

    def _replaced(self, match: re.Match[str]) -> str:
        return _GROUP.sub(lambda reference: _group(match, reference), self.replacement)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules in their order. Raises WrongRule."""
    rules: list[Rule] = []
    position = 0
    text = text.strip()
    while (position := _BETWEEN.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        match = _RULES.match(text, position)
        if match is None:
            raise WrongRule(f"no rule begins at {text[position : position + 60]!r}")
        rules.append(Rule() if match[1] else _rule(match[2], match[3], match[4]))
        position = match.end()
    return tuple(rules)


def user_of(rules: tuple[Rule, ...], name: str) -> str | None:
    """The user of a distinguished name, or None."""
    return next((user for rule in rules if (user := rule.apply(name)) is not None), None)


def _rule(pattern: str, replacement: str, case: str) -> Rule:
    try:
        compiled = re.compile(re.sub(r"\(\?<([A-Za-z]\w*)>", r"(?P<\1>", pattern.replace(r"\/", "/")))
    except re.error as wrong:
        raise WrongRule(f"RULE:{pattern[:60]}: {wrong}") from wrong
    for reference in _GROUP.finditer(replacement):
        if reference[2] and int(reference[2]) > compiled.groups:
            raise WrongRule(f"RULE:{pattern[:60]}: it has no group {reference[2]}")
        if reference[3] and reference[3] not in compiled.groupindex:
            raise WrongRule(f"RULE:{pattern[:60]}: it has no group {reference[3][:60]}")
    return Rule(compiled, replacement, case)


def _group(match: re.Match[str], reference: re.Match[str]) -> str:
    if reference[1]:
        return reference[1]
    return match[int(reference[2]) if reference[2] else reference[3]] or ""
