"""Runs the edge: renders it, keeps Envoy as its child, and hands Envoy the keys of a JWKS file whenever they change.

`python -m services.mesh.edge_run --out FOLDER`. The standard library alone, since it stays as long as Envoy does. Who
kills it takes Envoy along, so that the next one finds its port free.
"""

import argparse
import contextlib
import copy
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds between two looks at the key file.
_LOOK_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


class EdgeKeys:
    """The JWT filter's file, kept in step with a JWKS file.

    Args:
        source: The JWKS file: replaced, rewritten or, as mounted volumes do it, reached through changing links.
        target: The filter's configuration, which Envoy watches.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        self._seen: object = None

    def refresh(self) -> bool:
        """Writes the filter anew when the keys have changed; says whether it did. A broken file changes nothing."""
        try:
            stat = self._source.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version == self._seen:
                return False
            config = json.loads(self._target.read_bytes())
            changed = with_keys(config, self._source.read_text("utf-8"))
        except (OSError, ValueError) as error:
            if self._seen is not error.__class__:
                _say(f"{self._source}: {error}; the keys read earlier stay in use")
            self._seen = error.__class__
            return False
        self._seen = version
        if changed == config:
            return False
        replace(self._target, json.dumps(changed).encode())
        _say(f"{self._source}: keys taken over")
        return True


def with_keys(config: Mapping[str, Any], jwks: str) -> dict[str, Any]:
    """The JWT filter's configuration with the public keys of a JWKS document in it.

    Raises:
        ValueError: The document holds no public key. Secrets (`oct`) are none: everybody who may verify could sign.
    """
    parsed = json.loads(jwks)
    keys = parsed.get("keys") if isinstance(parsed, dict) else None
    public = [key for key in keys or () if isinstance(key, dict) and key.get("kty") in ("EC", "RSA", "OKP")]
    if not isinstance(keys, list) or not public:
        raise ValueError("no JWKS with a public key")
    private = ("d", "p", "q", "dp", "dq", "qi", "oth")
    kept = [{name: value for name, value in key.items() if name not in private} for key in public]
    made: dict[str, Any] = copy.deepcopy(dict(config))
    provider = made["resources"][0]["typed_config"]["providers"]["users"]
    provider["local_jwks"] = {"inline_string": json.dumps({"keys": kept})}
    return made


def replace(path: Path, content: bytes) -> None:
    """Replaces a file in one step, so that who reads it meanwhile gets the old or the new one."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)


def run(command: Sequence[str], keys: EdgeKeys | None) -> int:
    """Runs Envoy until it ends and returns its exit code; SIGTERM and SIGINT end it."""
    # Blocked and asked for, rather than handled: none gets lost between two lines.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    envoy = _child(command)
    look_at = time.monotonic()
    while True:
        if keys and time.monotonic() >= look_at:
            keys.refresh()
            look_at = time.monotonic() + _LOOK_S
        got = signal.sigtimedwait({*_ENDING, signal.SIGCHLD}, _LOOK_S)
        if got and got.si_signo in _ENDING:
            with contextlib.suppress(ProcessLookupError):
                os.kill(envoy, got.si_signo)
        ended, status = os.waitpid(envoy, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _child(command: Sequence[str]) -> int:
    """Starts a process that the kernel kills when this one ends, with as many open files as the system allows."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:  # else it has ended already
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(command[0], list(command))  # noqa: S606
    finally:
        os._exit(127)


def _say(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.mesh.edge_run", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to render to")
    out = parser.parse_args(arguments).out.absolute()
    rendered = subprocess.run([sys.executable, "-m", "services.mesh.edge", "--out", str(out)], check=False)
    if rendered.returncode:
        return rendered.returncode
    plan = json.loads((out / "run.json").read_bytes())
    keys = EdgeKeys(Path(plan["keys"]), out / "jwt.json") if plan["keys"] else None
    return run(plan["command"], keys)


if __name__ == "__main__":
    sys.exit(main())
