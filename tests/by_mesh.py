"""How the workers of a run share its tests."""

from typing import Any, Final

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

MESH_OF: Final = {
    "test_chaos.py": "chaos",
    "test_directories.py": "directories",
    "test_kill.py": "doomed",
    "test_revocations.py": "doomed",
    "test_secrets.py": "secrets",
    "test_tenants.py": "doomed",
}
"""Files of tests/e2e that do without the session's usual mesh, by the mesh they use. All others share a worker."""


class ByMesh(LoadFileScheduling):
    """Gives workers whole files, so that fixtures are shared, and one of them all files that use the same mesh.

    A worker keeps its last test back until it hears what comes after it. Where one has crashed, xdist 3.8.0 hands on
    its work, files that are done included; whoever is given such a file hears of no next test, and the run hangs.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False  # they are in the right order: see conftest.py
        super().__init__(config, log)

    def remove_node(self, node: WorkerController) -> str | None:
        work = self.assigned_work[node]
        for scope in [scope for scope, done in work.items() if all(done.values())]:
            del work[scope]
        return super().remove_node(node)

    def _reschedule(self, node: WorkerController) -> None:
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        folder, _, name = file.rpartition("/")
        return MESH_OF.get(name, "demo_mesh") if folder == "tests/e2e" else file
