"""Calls over gRPC as ghz makes them, by the configurations of benchmarks/ghz: at the services' own ports and the edge.

Each is complete but for the host, for a mesh that `make up` has started: `TOKEN=... COLLECTION=... INBOX=...
JOB=jobs/... ghz --config FILE HOST:PORT`. (ghz asks reflection for a method, of which Python's knows the service alone;
so it reads the contract that the edge was rendered from.)
"""

import asyncio
import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.plan import Plan
from benchmarks.results import Outcome, Table
from benchmarks.rig import Rig
from benchmarks.tools import found_tool
from ragweave.v1 import job_pb2
from tests.e2e.stack import OWNER

CONFIGS: Final = sorted((Path(__file__).parent / "ghz").glob("*.json"))
_INBOX: Final = "ghz-inbox"
_CALLERS: Final = 50
_ABOUT: Final = (
    f"ghz with {_CALLERS} callers over one connection, and what its configurations say: at the port of the service, "
    "and at the edge. Streams are counted whole, from the first message to the status that ends them."
)


@dataclass(frozen=True)
class Report:
    """What ghz says of one configuration at one place."""

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    calls: int
    errors: int
    said: Sequence[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Report":
        """Reads ghz's JSON, whose times are in nanoseconds."""
        took = {each["percentage"]: each["latency"] / 1e6 for each in told["latencyDistribution"] or ()}
        codes: Mapping[str, int] = told["statusCodeDistribution"]
        return cls(
            per_s=told["rps"],
            p50_ms=took.get(50, 0.0),
            p95_ms=took.get(95, 0.0),
            p99_ms=took.get(99, 0.0),
            calls=told["count"],
            errors=told["count"] - codes.get("OK", 0),
            said=sorted(told["errorDistribution"]),
        )


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Every configuration at both places, once a round; says that they are left out where there is no ghz."""
    ghz = found_tool("ghz")
    if ghz is None:
        print("ghz is not installed, so its configurations are left out: make bench-ghz builds it with Go", flush=True)
        return Outcome("Left out: ghz is not installed.")
    environment = {**os.environ, **await asyncio.to_thread(_environment, rig)}
    contract = rig.mesh.layout.edge / "contract.binpb"
    reports: dict[tuple[str, str], list[Report]] = {}
    for round_ in range(1, plan.rounds + 1):
        for config in CONFIGS:
            for place, host in _hosts(rig, config).items():
                report = await asyncio.to_thread(_run, ghz, config, contract, host, environment, plan)
                reports.setdefault((config.stem, place), []).append(report)
                print(f"ghz {config.stem}, {place}, round {round_} of {plan.rounds}: {report}", flush=True)
    return Outcome(_ABOUT, tables=[_table(reports)])


def method_of(config: Path) -> str:
    """Such as ragweave.v1.RetrievalService/Search."""
    return str(json.loads(config.read_text())["call"])


def _hosts(rig: Rig, config: Path) -> Mapping[str, str]:
    service = method_of(config).partition("/")[0].rpartition(".")[2]
    return {"direct": rig.mesh.layout.address(OWNER[service]), "by the edge": rig.mesh.edge}


def _run(ghz: str, config: Path, contract: Path, host: str, environment: Mapping[str, str], plan: Plan) -> Report:
    """What ghz reports of one configuration at a host.

    Args:
        contract: The descriptor set that it reads instead of the one that the configuration names.
    """
    load = ["-c", str(_CALLERS), "-z", f"{plan.seconds}s"]
    command = [ghz, "--config", str(config), "--protoset", str(contract), "--format", "json", *load, host]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ghz {config.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Report.of(json.loads(done.stdout))


def _environment(rig: Rig) -> Mapping[str, str]:
    """What the configurations name."""
    with rig.client() as client:
        client.create_collection(_INBOX)
        job = client.wait(client.import_texts(_INBOX, [{"text": "A first note."}]).name)
    if job.state != job_pb2.Job.SUCCEEDED:
        raise RuntimeError(f"not imported: {job}")
    return {"TOKEN": rig.token("admin"), "COLLECTION": rig.collection, "INBOX": _INBOX, "JOB": job.name}


def _table(reports: Mapping[tuple[str, str], Sequence[Report]]) -> Table:
    columns = ["configuration", "where", "calls/s", "p50 ms", "p95 ms", "p99 ms", "errors"]
    rows = [
        [
            name,
            place,
            f"{_median(each, 'per_s'):,.0f}",
            *(f"{_median(each, figure):.2f}" for figure in ("p50_ms", "p95_ms", "p99_ms")),
            _errors(each),
        ]
        for (name, place), each in reports.items()
    ]
    return Table("gRPC by ghz, medians of the rounds, errors of all", columns, rows)


def _errors(reports: Sequence[Report]) -> str:
    errors, calls = sum(each.errors for each in reports), sum(each.calls for each in reports)
    said = sorted({said for each in reports for said in each.said})
    return f"{errors} of {calls:,}" + (f" ({'; '.join(said)[:200]})" if said else "")


def _median(reports: Sequence[Report], figure: str) -> float:
    return statistics.median(getattr(each, figure) for each in reports)
