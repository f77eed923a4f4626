"""One process's configuration: the layers merged, judged as a whole, and described.

Keeps: a `Config` that `load` returns is valid, never changes, and knows the source of each of its values. Layers,
weakest first: defaults, TOML file, `PENSTOCK_*` environment, flags. No message shows a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gateway.config.audit import AuditKeys
from gateway.config.authorizer import AuthorizerKeys
from gateway.config.bounds import BoundKeys
from gateway.config.cluster import ClusterKeys
from gateway.config.conflicts import Origins, conflicts
from gateway.config.containers import ContainerKeys
from gateway.config.delegation import DelegationKeys
from gateway.config.fields import HIDDEN, allowed, document, is_secret, plain, shown, type_name
from gateway.config.groups import GroupKeys
from gateway.config.http import HttpKeys
from gateway.config.kafka_names import hint_of
from gateway.config.layers import (
    ConfigError,
    Given,
    Layer,
    assignments_layer,
    environment_layer,
    file_layer,
)
from gateway.config.listener_keys import apart
from gateway.config.listeners import ListenerKeys
from gateway.config.log import LogKeys
from gateway.config.logs import LogLineKeys
from gateway.config.model import Config
from gateway.config.properties import SUFFIX, read_properties
from gateway.config.providers import Providers
from gateway.config.quantities import in_unit_of
from gateway.config.scaling import ScalingKeys
from gateway.config.secrets import SECRET_KEYS, SecretFileKeys, with_files
from gateway.config.security import SecurityKeys
from gateway.config.share_groups import ShareGroupKeys
from gateway.config.tiering import TieringKeys
from gateway.config.topics import TopicKeys
from gateway.config.transactions import TransactionKeys

__all__ = ["FIELDS", "Config", "describe", "load"]

TITLES: Final[Mapping[type[BaseModel], str]] = {
    ListenerKeys: "Listeners, connections and requests",
    HttpKeys: "HTTP",
    LogKeys: "The log",
    TopicKeys: "Topics",
    ScalingKeys: "Scaling",
    GroupKeys: "Groups",
    ShareGroupKeys: "Groups",
    TransactionKeys: "Transactions",
    BoundKeys: "Bounds",
    LogLineKeys: "Log lines",
    SecurityKeys: "Security",
    AuthorizerKeys: "Security",
    DelegationKeys: "Security",
    AuditKeys: "Security",
    ContainerKeys: "Containers",
    ClusterKeys: "Cluster",
    TieringKeys: "Long-term storage",
    SecretFileKeys: "Files of secrets",
}
"""The sections in the order of `penstock config`."""
_SECRET_NAME: Final = re.compile("secret|passw|passphrase|token|key|credential")


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Given] | None = None,
    check: Callable[[Config, Origins], Iterable[str]] = conflicts,
) -> Config:
    """Merge the layers and check the result. Raises ConfigError with every problem found.

    `check`: for a command that does not serve, what has to go together.
    """
    layers: list[Layer] = [] if file is None else [layer_of(file)]
    layers.append(environment_layer(os.environ if environ is None else environ))
    layers.append(assignments_layer(assignments))
    layers.append(flags or {})
    given: dict[str, Given] = {}
    for layer in layers:
        given.update(layer)
    providers = Providers(os.environ if environ is None else environ)
    given, own_keys = apart(providers.resolved(given))
    if unknown := [_unknown(key, value) for key, value in given.items() if key not in FIELDS]:
        raise ConfigError(unknown)
    given = _without_units(with_files(given))
    if "cluster" in given and given["cluster"].value:  # any node may go on with the log of another one
        given.setdefault("log.store", Given("object", given["cluster"].source))
    values: dict[str, Any] = {key: value.value for key, value in given.items()}
    try:
        config = Config(**values)
    except ValidationError as exc:
        raise ConfigError(list(_wrong(exc, given))) from None  # its text would show the values
    config._sources = {key: value.source for key, value in given.items()}
    config._provided = tuple(providers.files)
    config._own_keys = own_keys.securities(config, {address.name for address in config.listeners})
    if problems := list(check(config, Origins(config._sources, lambda key: _text(config, key)))):
        raise ConfigError(problems)
    return config


def _text(config: Config, key: str) -> str:
    """A key with its value, for a message."""
    name, field = FIELDS[key]
    return f"{key} = {shown(plain(getattr(config, name), field), quoted=False)}"


def layer_of(file: Path) -> Layer:
    """A file's layer: TOML, or Kafka's properties if its name says so. Raises ConfigError."""
    return read_properties(file, FIELDS).layer if file.suffix == SUFFIX else file_layer(file)


def left_out_of(file: Path | None) -> list[str]:
    """Lines about the keys of a file of Kafka's that have no effect here. Raises ConfigError."""
    return [] if file is None or file.suffix != SUFFIX else read_properties(file, FIELDS).told


def _without_units(given: Mapping[str, Given]) -> dict[str, Given]:
    """Sizes and times with units as numbers of the key's unit. Raises ConfigError for units that are none."""
    plain_ones: dict[str, Given] = {}
    problems = []
    for key, value in given.items():
        try:
            counts = type_name(FIELDS[key][1]) in ("int", "long")
            number = in_unit_of(key, value.value) if counts and isinstance(value.value, str) else value.value
            plain_ones[key] = Given(number, value.source)
        except ValueError as error:
            problems.append(f"{key} = {shown(value.value)} ({value.source}): {error}")
    if problems:
        raise ConfigError(problems)
    return plain_ones


def describe(config: Config) -> list[dict[str, object]]:
    """Every key with its value, default, source, type and meaning."""
    return [
        {
            "key": key,
            "value": plain(getattr(config, attribute), field),
            "default": plain(field.default, field),
            "source": config._sources.get(key, "default"),
            "type": type_name(field),
            "section": SECTIONS.get(attribute, "Other"),
            "doc": document(field),
        }
        for key, (attribute, field) in FIELDS.items()
    ]


def files_of(config: Config) -> list[Path]:
    """The files that the configuration was read from, and the files that it names."""
    named = [config.tier2_credentials_file, config.tier2_ca_file, config.http_tls_keystore_location]
    for listener in {address.name for address in config.listeners}:
        keys = config.security_of(listener)
        named += [keys.ssl_keystore_location, keys.ssl_truststore_location, keys.sasl_plain_users_file]
    read = {source.removeprefix("file ") for source in config._sources.values() if source.startswith("file ")}
    return [*map(Path, read), *(path for path in named if path is not None)]


def secret_files_of(config: Config) -> list[Path]:
    """The files from which secrets were read, and those of private keys and users' credentials."""
    named = [getattr(config, f"{key.replace('.', '_')}_file") for key in SECRET_KEYS]
    named += [config.tier2_credentials_file, config.http_tls_keystore_location, *config._provided]
    for listener in {address.name for address in config.listeners}:
        keys = config.security_of(listener)
        named += [keys.ssl_keystore_location, keys.sasl_plain_users_file]
    return list(dict.fromkeys(path for path in named if path is not None))


def _unknown(key: str, given: Given) -> str:
    """A message about a key that does not exist."""
    if (known := hint_of(key)) is not None:
        value = HIDDEN if _SECRET_NAME.search(key) else shown(given.value)
        return f"unknown key {shown(key, quoted=False)} = {value} ({given.source}): {known}"
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.0)
    hint = f"nearest known key: {near[0]} ({allowed(FIELDS[near[0]][1])}); " if near else ""
    hidden = _SECRET_NAME.search(key) or any(is_secret(FIELDS[name][1]) for name in near)  # a misspelt secret key
    value = HIDDEN if hidden else shown(given.value)
    return f"unknown key {shown(key, quoted=False)} = {value} ({given.source}); {hint}see `penstock config`"


def _wrong(error: ValidationError, given: Mapping[str, Given]) -> Iterator[str]:
    """Messages about disallowed values, one per key."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0])
        if key in seen:
            continue
        seen.add(key)
        cause = detail.get("ctx", {}).get("error")
        why = f"{shown(str(cause), quoted=False)}; " if isinstance(cause, ValueError) else ""
        field = FIELDS[key][1]
        value = HIDDEN if is_secret(field) else shown(given[key].value)
        yield f"{key} = {value} ({given[key].source}): {why}allowed: {allowed(field)}"


SECTIONS: Final = {name: title for keys, title in TITLES.items() for name in keys.model_fields}
"""The section of each attribute."""
_IN_ORDER: Final = sorted(Config.model_fields.items(), key=lambda item: item[0] in TieringKeys.model_fields)
FIELDS: Final[Mapping[str, tuple[str, FieldInfo]]] = {field.alias or name: (name, field) for name, field in _IN_ORDER}
"""Every key, in the order of `penstock config`."""
