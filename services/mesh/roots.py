"""The folders of the server that tenants may import from: who may use which, and what paths in requests mean."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.mesh.errors import PathNotAllowed
from services.mesh.paths import legible, names_in, shown

EVERY_TENANT: Final = "*"
# The folder of the data folder that is the root where none is set.
DEFAULT_FOLDER: Final = "import"

_ENTRY: Final = re.compile(r"(?P<tenant>[^=]+)=(?:(?P<name>[A-Za-z0-9_-]{1,64}):)?(?P<path>/.*)")


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that a tenant may import from.

    Attributes:
        tenant: Whose it is; EVERY_TENANT where all may use it.
        path: Absolute.
        name: What paths in requests begin with, before a colon; "" for the one root that paths without a name mean.
    """

    tenant: str
    path: Path
    name: str = ""

    def __str__(self) -> str:
        return f"{self.tenant}={self.name}{':' if self.name else ''}{self.path}"

    def is_for(self, tenant: str) -> bool:
        return self.tenant in (tenant, EVERY_TENANT)


@dataclass(frozen=True, slots=True)
class Place:
    """Something below a root, whether it exists or not.

    Attributes:
        path: Relative to the root, as `shown` spells it, "" being the root itself.
    """

    root: Root
    path: str

    @property
    def spelt(self) -> str:
        """As requests name it."""
        return spelt_in(self.root.name, self.path)

    @property
    def key(self) -> str:
        return key_in(self.root.name, self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """Its names from the root down, as the file system has them."""
        return names_in(self.path)

    def below(self, path: str) -> "Place":
        return Place(self.root, f"{self.path}/{path}" if self.path else path)


def spelt_in(root: str, path: str) -> str:
    """A path below a root, by the root's name, as requests write it."""
    return f"{root}:{path}" if root else path or "."


def key_in(root: str, path: str) -> str:
    """What no two paths of a tenant share, whatever their roots hold: no path below a root begins with `/`."""
    return f"/{root}/{path}" if root else path


def root_from(text: str) -> Root:
    """`tenant=/path` or `tenant=name:/path`; `*` for every tenant. Raises ValueError saying what is wrong."""
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r}: a root is tenant=/path or tenant=name:/path with an absolute path; * stands for every tenant"
        )
    return Root(found["tenant"].strip(), Path(os.path.normpath(found["path"])), found["name"] or "")


def check_roots(roots: Sequence[Root], data_dir: Path, secrets: Iterable[Path] = ()) -> None:
    """Refuses what would make a path ambiguous, or hand out what no tenant may read.

    Args:
        data_dir: Where the mesh keeps what it has; only its folder `import` may be a root or hold one.
        secrets: Files and folders elsewhere that no root may hold or lie in.

    Raises:
        ValueError: naming the roots.
    """
    for at, root in enumerate(roots):
        for other in roots[:at]:
            if root.name == other.name and not _separate(root, other):
                told = f"are both called {root.name}" if root.name else "both have no name"
                raise ValueError(f"{other} and {root} {told}: call one otherwise, as in tenant=name:/path")
            if root.path == other.path and _separate(root, other):
                continue
            if _overlap(root.path, other.path):
                raise ValueError(f"{other} and {root}: a folder may be reached through one root only")
        within = _holds(data_dir, root.path) and not _holds(data_dir / DEFAULT_FOLDER, root.path)
        holds = _holds(root.path, data_dir) or any(_overlap(root.path, kept) for kept in secrets)
        if within or holds:
            raise ValueError(f"{root}: imports would reach what the mesh keeps for itself")


class Roots:
    """The roots, by tenant.

    Args:
        roots: As `check_roots` found them good.
    """

    def __init__(self, roots: Sequence[Root]) -> None:
        self._roots = tuple(roots)

    def of(self, tenant: str) -> tuple[Root, ...]:
        """Those a tenant may use, the one without a name first."""
        return tuple(sorted((root for root in self._roots if root.is_for(tenant)), key=lambda root: root.name))

    def named(self, tenant: str, name: str) -> Root:
        """Raises PathNotAllowed where the tenant has no such root, or has it no more."""
        for root in self.of(tenant):
            if root.name == name:
                return root
        raise PathNotAllowed(f"there is no root {name!r} to import from (any more)" if name else _NO_PLAIN_ROOT)

    def place(self, tenant: str, path: str) -> Place:
        """What a path means: `docs/a.md` in the root without a name, `name:docs/a.md`, or absolute and under a root.

        Nothing is looked at: the answer is the same whatever exists.

        Raises:
            PathNotAllowed: outside the tenant's roots, or no path at all (see `names_in`).
        """
        if path.startswith("/"):
            return self._absolute(tenant, path)
        name, colon, rest = path.partition(":")
        own = {root.name: root for root in self.of(tenant)}
        if colon and name in own:
            return Place(own[name], _spelt(names_in(rest)))
        names = names_in(path)
        if "" not in own:
            known = ", ".join(f"{name}:" for name in own)
            raise PathNotAllowed(
                f"{legible(path)}: a path begins with the name of a root: {known}"
                if known
                else f"{legible(path)}: {_NO_ROOT}"
            )
        return Place(own[""], _spelt(names))

    def _absolute(self, tenant: str, path: str) -> Place:
        names = names_in(path)
        for root in self.of(tenant):
            for top in {root.path.parts[1:], Path(os.path.realpath(root.path)).parts[1:]}:
                if names[: len(top)] == top:
                    return Place(root, _spelt(names[len(top) :]))
        raise PathNotAllowed(f"{legible(path)}: not under a root this tenant may import from")


_NO_ROOT: Final = "this tenant has no folder to import from (RAGWEAVE_ROOTS)"
_NO_PLAIN_ROOT: Final = "there is no root without a name to import from (any more)"


def _spelt(names: tuple[str, ...]) -> str:
    return shown("/".join(names))


def _holds(outer: Path, inner: Path) -> bool:
    """Both as written, and where links lead."""
    real_outer, real_inner = (Path(os.path.realpath(path)) for path in (outer, inner))
    return inner.is_relative_to(outer) or real_inner.is_relative_to(real_outer)


def _overlap(one: Path, other: Path) -> bool:
    return _holds(one, other) or _holds(other, one)


def _separate(one: Root, other: Root) -> bool:
    """No tenant has both."""
    return one.tenant != other.tenant and EVERY_TENANT not in (one.tenant, other.tenant)
