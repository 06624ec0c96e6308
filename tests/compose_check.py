"""Builds the image and runs the stack where a container engine is there. `make compose-check`.

    python -m tests.compose_check [--embedded]

A project of its own with passwords, volumes and a port of its own, which it takes away at the end. One document goes in
over the edge, and a search finds it. Then: the documentation, who the processes are, what they can write, and what they
take. `--embedded` leaves Qdrant away, whose image cannot be had everywhere. COMPOSE is the command, `docker compose`
where it is not set; OPEN_FILES what Envoy asks for, on a machine that allows less.
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.ports import free_port

FOLDER = Path(__file__).resolve().parents[1] / "compose"
COMPOSE = shlex.split(os.environ.get("COMPOSE", "docker compose"))
PROJECT = "ragweave-check"
IMAGE = "ragweave:check"
TEXT = "The cat that lives in the harbour eats fish."
PATIENCE_S = 60.0
PROCESSES = ("embedding", "retrieval", "collections", "jobs", "worker", "system", "gateway", "envoy")


class Stack:
    """The stack of compose/ as a project of its own.

    Args:
        environment: A file of settings, in the place of compose/.env.
    """

    def __init__(self, environment: Path, port: int, files: Sequence[str]) -> None:
        self._command = [*COMPOSE, "--project-name", PROJECT, "--project-directory", str(FOLDER)]
        self._command += ["--env-file", str(environment)]
        for name in files:
            self._command += ["--file", str(FOLDER / name)]
        self._url = f"https://localhost:{port}"
        self._trust: ssl.SSLContext | None = None

    def compose(self, *arguments: str) -> str:
        """Runs compose; returns what it prints, and shows the rest."""
        done = subprocess.run([*self._command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "--no-TTY", service, *command)

    def trust_its_authority(self) -> None:
        self._trust = ssl.create_default_context(cadata=self.inside("envoy", "cat", "/data/tls/ca.crt"))

    def call(self, path: str, token: str = "", body: Any = None) -> Any:
        """One call of the edge: what it answers, parsed where it is JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}{path}", data)
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30, context=self._trust) as answer:
            content = answer.read()
            return json.loads(content) if answer.headers["content-type"] == "application/json" else content


def check(stack: Stack) -> None:
    """Holds a stack that runs to what it promises."""
    stack.trust_its_authority()
    token = stack.inside("collections", "ragweave", "token", "--role", "admin")
    stack.call("/api/v1/rag/collections?collectionId=harbour", token, {})
    stack.call("/api/v1/rag/collections/harbour/documents", token, {"documentId": "cat", "text": TEXT})
    until = time.monotonic() + PATIENCE_S
    question = {"query": "who eats fish", "collection": "harbour"}
    while not (hits := stack.call("/api/v1/rag/search", token, question)["hits"]):
        assert time.monotonic() < until, "the document was never found"
        time.sleep(0.2)
    assert hits[0]["text"] == TEXT
    assert b"api-reference" in stack.call("/docs")
    for process in PROCESSES:
        assert stack.inside(process, "id", "-u") == "10001", f"{process} runs as another user"
        written = stack.inside(
            process, "sh", "-c", "for f in /app /opt/venv /data; do touch $f/x && echo $f; done; true"
        )
        assert not written, f"{process} can write to {written}"
        mine = stack.inside(process, "sh", "-c", "grep -E '^(CapEff|NoNewPrivs)' /proc/1/status")
        assert mine.split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"], f"{process}: {mine}"
    print("a document was imported and found over the edge; nobody is root or can write what it should not")


def stop(stack: Stack) -> None:
    """Stops it, and holds that every process ended by itself within its time, rather than by SIGKILL."""
    names = _containers()
    began = time.monotonic()
    stack.compose("stop")
    ended = _docker("inspect", "--format", "{{.Name}} {{.State.ExitCode}}", *names).splitlines()
    assert not (killed := [each for each in ended if each.endswith(" 137")]), f"killed: {killed}"
    print(f"all ended by themselves within {time.monotonic() - began:.0f} s")


def figures() -> None:
    """Prints the size of the image and the memory of the containers."""
    size = _docker("image", "inspect", "--format", "{{.Size}}", IMAGE)
    print(f"image: {int(size) / 1e6:.0f} MB")
    print(_docker("stats", "--no-stream", "--format", "{{.Name}}\t{{.MemUsage}}", *_containers()))


def _containers() -> list[str]:
    return _docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def engine() -> bool:
    """Whether there is one, and compose to speak to it."""
    asked = (["docker", "info"], [*COMPOSE, "version"])
    return bool(shutil.which("docker")) and all(
        not subprocess.run(each, capture_output=True).returncode for each in asked
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compose_check", description=__doc__)
    parser.add_argument("--embedded", action="store_true", help="without Qdrant, its engine in retrieval")
    chosen = parser.parse_args()
    if not engine():
        print(f"SKIPPED: no container engine answers to `docker` and `{shlex.join(COMPOSE)}`")
        return
    files = ["compose.yaml", *(["embedded.yaml"] if chosen.embedded else [])]
    with tempfile.TemporaryDirectory() as folder:
        environment, port = Path(folder) / "env", free_port()
        settings = {
            "REDIS_PASSWORD": secrets.token_hex(24),
            "QDRANT_API_KEY": secrets.token_hex(24),
            "EDGE_PORT": port,
            "RAGWEAVE_IMAGE": IMAGE,
            "IMPORT_FOLDER": folder,
            "OPEN_FILES": os.environ.get("OPEN_FILES", "65536"),
        }
        environment.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        stack = Stack(environment, port, files)
        stack.compose("build")
        try:
            began = time.monotonic()
            stack.compose("up", "--detach", "--wait")
            print(f"all healthy after {time.monotonic() - began:.0f} s")
            check(stack)
            figures()
            stop(stack)
        except BaseException:
            print(stack.compose("logs", "--no-color", "--tail", "20"))
            raise
        finally:
            stack.compose("down", "--volumes", "--timeout", "30")
    print("the stack works")


if __name__ == "__main__":
    sys.exit(main())
