"""Runs the edge: renders it, keeps Envoy as its child, and hands Envoy the keys of a JWKS file whenever they change.

`python -m services.mesh.edge_run --out FOLDER`. The standard library alone, since it stays as long as Envoy does. Who
kills it takes Envoy along, so that the next one finds its port free. SIGHUP renders anew and starts another Envoy that
takes over the listening sockets of the one that runs, with the connections that wait there (Envoy's hot restart); that
one ends what it has begun.
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
from collections.abc import Callable, Mapping, Sequence
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


class Envoys:
    """The Envoy that takes connections, and those before it that end what they have begun.

    Args:
        base_id: The file in which the first one leaves the number by which they find one another.
    """

    def __init__(self, base_id: Path) -> None:
        self._base_id = base_id
        self._epochs: dict[int, int] = {}

    def start(self, command: Sequence[str]) -> None:
        """Starts one, which takes over from the last where one runs."""
        if self._epochs:
            epoch = max(self._epochs.values()) + 1
            self._epochs[_child(succeeding(command, self._base_id.read_text().strip(), epoch))] = epoch
        else:
            self.clear()  # what a killed one left
            self._epochs[_child(command)] = 0

    def signal(self, number: int) -> None:
        """Sends a signal to all."""
        for pid in self._epochs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def reap(self) -> int | None:
        """Notes which have ended: as a shell has it, how the last of them did; None while one runs."""
        code = None
        for pid in list(self._epochs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                epoch = self._epochs.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                if self._epochs:
                    late = epoch < max(self._epochs.values())
                    _say(f"envoy {epoch}: ended with {code}" + ("" if late else "; the one before it goes on"))
        return None if self._epochs or code is None else code if code >= 0 else 128 - code

    def clear(self) -> None:
        """Deletes what Envoys leave in shared memory."""
        with contextlib.suppress(OSError):
            base_id = self._base_id.read_text().strip()
            self._base_id.unlink()
            Path(f"/dev/shm/envoy_shared_memory_{base_id}0").unlink()  # noqa: S108 - Envoy's place


def succeeding(command: Sequence[str], base_id: str, epoch: int) -> list[str]:
    """The command line of an Envoy that takes over from one that runs.

    Args:
        base_id: What that one wrote to its --base-id-path.
        epoch: How many were before this one.
    """
    kept = [argument for argument in command if argument != "--use-dynamic-base-id"]
    at = kept.index("--base-id-path")
    return [*kept[:at], "--base-id", base_id, "--restart-epoch", str(epoch), *kept[at + 2 :]]


def run(
    command: Sequence[str],
    keys: EdgeKeys | None,
    base_id: Path,
    rendered: Callable[[], Sequence[str] | None] = lambda: None,
) -> int:
    """Runs Envoy until it ends and returns its exit code; SIGTERM and SIGINT end it.

    Args:
        base_id: As in `Envoys`.
        rendered: Renders anew, and returns the command line of an Envoy that shall take over; None where there is none.
    """
    # Blocked and asked for, rather than handled: none gets lost between two lines.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGHUP, signal.SIGCHLD})
    envoys = Envoys(base_id)
    envoys.start(command)
    look_at = time.monotonic()
    while True:
        if keys and time.monotonic() >= look_at:
            keys.refresh()
            look_at = time.monotonic() + _LOOK_S
        got = signal.sigtimedwait({*_ENDING, signal.SIGHUP, signal.SIGCHLD}, _LOOK_S)
        if got and got.si_signo in _ENDING:
            envoys.signal(got.si_signo)
        if got and got.si_signo == signal.SIGHUP and (following := rendered()):
            envoys.start(following)
        code = envoys.reap()
        if code is not None:
            envoys.clear()
            return code


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
    if code := _render(out):
        return code
    plan = _plan(out)
    keys = EdgeKeys(Path(plan["keys"]), out / "jwt.json") if plan["keys"] else None
    return run(plan["command"], keys, out / "base_id", lambda: _rendered_anew(out))


def _render(out: Path, *options: str) -> int:
    line = [sys.executable, "-m", "services.mesh.edge", "--out", str(out), *options]
    return subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode


def _rendered_anew(out: Path) -> Sequence[str] | None:
    """Renders over what an Envoy runs on, once Envoy itself has taken the result; the command line of its successor."""
    if _render(out, "--checked"):
        _say("the edge stays as it is: what was rendered anew is refused")
        return None
    command: list[str] = _plan(out)["command"]
    return command


def _plan(out: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((out / "run.json").read_bytes())
    return plan


if __name__ == "__main__":
    sys.exit(main())
