"""The code: what is generated against what it is generated from, what is installed, and what runs."""

import filecmp
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from ragweave.findings import Finding, error, ok, warning
from ragweave.local.health import Standing

_GENERATED = ("ragweave/v1", "ragweave/internal/v1", "ragweave/third_party")
_RUN = ("ragweave", "services", "envoy", "gateway")


def examine(root: Path, standings: Iterable[Standing]) -> Iterator[Finding]:
    """Of a checkout; installed from a package there is nothing to compare.

    Args:
        root: The folder of the checkout.
        standings: The processes that run.
    """
    yield from stubs(root)
    yield from version(root)
    yield from running(root, standings)


def stubs(root: Path) -> Iterator[Finding]:
    generator = root / "protos" / "generate.py"
    if not generator.exists() or importlib.util.find_spec("grpc_tools") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [sys.executable, str(generator), folder], cwd=root, capture_output=True, text=True, check=False
        )
        if made.returncode:
            lines = made.stderr.strip().splitlines() or ["no word why"]
            why = "code cannot be generated, so what is there is of an earlier contract"
            yield error(f"the protos do not compile: {lines[0]}", why, "correct them; `make lint` names the line")
            return
        stale = sorted(_different(root, Path(folder)))
    if stale:
        more = f" and {len(stale) - 3} others" if len(stale) > 3 else ""
        why = "clients and services speak another contract than the protos say"
        yield error(f"generated code is not what the protos say: {', '.join(stale[:3])}{more}", why, "`make protos`")
    else:
        yield ok("generated code is what the protos say")


def _different(root: Path, made: Path) -> Iterator[str]:
    """Files, by their path below the root, that are there and not made, made and not there, or not the same."""
    for folder in _GENERATED:
        names = {
            path.relative_to(base)
            for base in (root, made)
            for path in (base / folder).rglob("*_pb2*.py*")
            if path.suffix in (".py", ".pyi")
        }
        for name in names:
            if not ((root / name).exists() and (made / name).exists()) or not filecmp.cmp(
                root / name, made / name, shallow=False
            ):
                yield str(name)


def version(root: Path) -> Iterator[Finding]:
    try:
        named = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        installed = importlib.metadata.version("ragweave")
    except (OSError, KeyError, tomllib.TOMLDecodeError, importlib.metadata.PackageNotFoundError):
        return
    if named.get("name") != "ragweave":
        return
    if named["version"] != installed:
        what = f"version {installed} is installed, the checkout is {named['version']}"
        yield warning(what, "what it depends on may be of another version too", "`make install`")
    else:
        yield ok(f"version {installed} is installed")


def running(root: Path, standings: Iterable[Standing]) -> Iterator[Finding]:
    """Whether the processes began before the code became what it is."""
    changed = max(((path.stat().st_mtime, path) for path in _sources(root)), default=None)
    if changed is None:
        return
    at, path = changed
    before = [each.name for each in standings if each.pid and each.started_at < at]
    if before:
        when = datetime.fromtimestamp(at, UTC)
        yield warning(
            f"{', '.join(before)} began before {path.relative_to(root)} was changed ({when:%Y-%m-%d %H:%M} UTC)",
            "what runs is not what is in this folder",
            "`ragweave down && ragweave up`",
        )


def _sources(root: Path) -> Iterator[Path]:
    for folder in _RUN:
        for path in (root / folder).rglob("*"):
            if path.suffix in (".py", ".lua", ".j2") and path.is_file():
                yield path
