"""RAGWEAVE_* variables that nothing reads, most often for a typo: a setting that was meant holds nowhere."""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Set
from typing import Final

from pydantic import AliasChoices
from pydantic_settings import BaseSettings

import services
from ragweave.findings import Finding, warning

_PREFIX: Final = "RAGWEAVE_"
# Read by the command line and the local mesh, and by those who build and test; settings of services are found.
LOCAL: Final = frozenset(
    {
        "RAGWEAVE_EDGE_TLS_CA",
        "RAGWEAVE_OPERATOR_TENANT",
        "RAGWEAVE_TARGET",
        "RAGWEAVE_TEST_RUN",
        "RAGWEAVE_TLS_HOSTS",
        "RAGWEAVE_TOKEN",
        "RAGWEAVE_WORKER_REPLICAS",
        *(f"RAGWEAVE_{name}_REPLICAS" for name in ("COLLECTIONS", "EMBEDDING", "JOBS", "RETRIEVAL", "SYSTEM")),
    }
)
# Of the later replicas of the local mesh.
_REPLICA: Final = re.compile(r"RAGWEAVE_(COLLECTIONS|EMBEDDING|JOBS|RETRIEVAL|SYSTEM|WORKER)_[2-9]_(METRICS_)?PORT")
# The gateway is no service, and imports none: whatever it reads begins so.
_GATEWAY: Final = "RAGWEAVE_GATEWAY_"


def unknown_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Each of them, with the one that may have been meant."""
    known = known_variables()
    for name in sorted(name for name in environment if name.upper().startswith(_PREFIX)):
        if is_known(name, known):
            continue
        meant = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        yield warning(
            f"{name} is set, and nothing reads it",
            "what it was to change keeps its default",
            f"did you mean {meant[0]}?" if meant else f"unset {name}, or look for its name in the documentation",
        )


def is_known(name: str, known: Set[str]) -> bool:
    """Whether something reads a variable: one of those known, of a later replica, or of the gateway."""
    upper = name.upper()
    return upper in known or bool(_REPLICA.fullmatch(upper)) or upper.startswith(_GATEWAY)


def known_variables() -> Set[str]:
    """The variables that the settings of all services, the local mesh and the command line are read from."""
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if module.name.endswith("settings"):
            importlib.import_module(module.name)
    return LOCAL | {name for kind in _kinds(BaseSettings) for name in _names(kind)}


def _kinds(kind: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("services."):
            yield each
        yield from _kinds(each)


def _names(kind: type[BaseSettings]) -> Iterator[str]:
    prefix = str(kind.model_config["env_prefix"]).upper()
    for name, field in kind.model_fields.items():
        if prefix.startswith(_PREFIX):
            yield f"{prefix}{name.upper()}"
        if isinstance(field.validation_alias, AliasChoices):
            yield from (str(each).upper() for each in field.validation_alias.choices)
