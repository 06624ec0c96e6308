"""What is weak about this machine's mesh, asked of the processes' own judgement."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from ragweave.local.layout import BadSetting, Layout


@dataclass(frozen=True)
class Weakness:
    """One thing that is weak, how to mend it, and whether the production profile refuses to start with it."""

    what: str
    mend: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


def weaknesses(layout: Layout) -> list[Weakness]:
    """Everything weak, the worst first. Raises BadSetting where the settings cannot be read."""
    said = subprocess.run(
        [sys.executable, "-m", "services.mesh.weaknesses"],
        env={**os.environ, **layout.environment()},
        cwd=layout.root,
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        raise BadSetting(said.stderr.strip())
    return [Weakness(**json.loads(line)) for line in said.stdout.splitlines()]
