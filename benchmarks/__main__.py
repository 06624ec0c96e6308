"""All benchmarks in one run: `python -m benchmarks [--only SUITE,...] [--rounds N] [--seconds S] [--out FOLDER]`.

Each suite has its part of benchmarks.json, which a run brings up to date and leaves the others' as they are; then the
tables of benchmarks.md are made from all of it.
"""

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import cached, footprint, ghz, ingest, page, profile, rest, results, search, uncached
from benchmarks.peers import suite as peers
from benchmarks.plan import Plan
from benchmarks.results import Outcome, Run
from benchmarks.rig import Rig
from tests.e2e.stack import ROOT

Suite = Callable[[Rig, Plan], Coroutine[Any, Any, Outcome]]

# In the order in which they are run, and told.
SUITES: Final[Mapping[str, Suite]] = {
    "footprint": footprint.run,
    "cached": cached.run,
    "uncached": uncached.run,
    "kinds": search.run,
    "ingest": ingest.run,
    "k6": rest.run,
    "ghz": ghz.run,
    "peers": peers.run,
    "profile": profile.run,
}


def main() -> None:
    """Runs suites, one after the other, and writes down what each found as soon as it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SUITES), help="suites, separated by commas; else all of them")
    parser.add_argument("--rounds", type=int, default=5, help="in which each contestant has its turn")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load, of each contestant in each round")
    parser.add_argument("--documents", type=int, help="of the corpus, for a quick look; else all of it")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where benchmarks.md and .json are")
    given = parser.parse_args()
    names = [each.strip() for each in given.only.split(",")]
    if unknown := set(names) - SUITES.keys():
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if not (given.out / "benchmarks.md").exists():
        given.out.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs" / "benchmarks.md", given.out)
    plan = Plan(given.rounds, given.seconds)
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), given.documents) as rig:
        print(f"seed {rig.seed}", flush=True)
        for name in SUITES:
            if name in names:
                record(given.out, name, Run(_command()), asyncio.run(SUITES[name](rig, plan)))


def record(out: Path, name: str, run: Run, outcome: Outcome) -> None:
    """Writes down what a suite found, and tells its bars."""
    document = results.read(out / "benchmarks.json")
    suites = {**document["suites"], name: results.told(outcome, run)}
    document["suites"] = {each: suites[each] for each in _in_order(list(suites))}
    results.write(out / "benchmarks.json", document)
    page.update(out / "benchmarks.md", document)
    for bar in outcome.bars:
        met = {True: "met", False: "NOT MET", None: "not measured"}[bar.met]
        print(f"bar {bar.number}: {bar.asked}: {bar.measured}: {met}", flush=True)


def _in_order(names: Sequence[str]) -> list[str]:
    known = list(SUITES)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


if __name__ == "__main__":
    main()
