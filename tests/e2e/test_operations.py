"""The on-call page: what it has one type works as written, and what it names is there."""

import re
from pathlib import Path

import pytest

from ragweave.local.layout import PORTS
from tests.e2e.stack import BIN, ROOT, TLS, Mesh

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
# Those marked `sh changes` are not run here: others are at work on the mesh.
BLOCKS = [block for kind, block in re.findall(r"^```(.*)\n((?:.*\n)+?)```$", PAGE, re.MULTILINE) if kind == "sh"]
SETTINGS = "\n".join(
    path.read_text("utf-8") for folder in ("services", "ragweave", "gateway") for path in (ROOT / folder).rglob("*.py")
)

# Starting `ragweave` is what takes long: what it says is kept for the blocks that ask for the same.
_ONCE = """ragweave() {
  said="$ONCE/$(echo "$*" | tr -c 'a-z0-9\\n' _)"
  [ -f "$said" ] || command ragweave "$@" > "$said" || return
  cat "$said"
}"""


def as_in(mesh: Mesh, kept: Path, block: str) -> str:
    """The block with the ports of a mesh that has not the default ones."""
    for part, (_, default) in PORTS.items():
        block = re.sub(rf"\b{default}\b", str(mesh.layout.ports[part]), block)
    # As in a shell that one types into: `status` and `doctor` end with 1 where something is wrong.
    return f'set +e; export PATH="{BIN}:$PATH"\nONCE={kept}\n{_ONCE}\n{block}'


@pytest.mark.skipif(TLS, reason="the page's commands are for a mesh without TLS")
def test_every_command_that_changes_nothing_runs_as_it_is_written(mesh: Mesh, tmp_path: Path) -> None:
    assert len(BLOCKS) > 10
    for block in dict.fromkeys(BLOCKS):
        done = mesh.shell(as_in(mesh, tmp_path, block))
        assert (done.returncode, done.stderr) == (0, ""), f"{block}\n{done.stdout}{done.stderr}"


def test_every_command_named_is_one_of_ragweave(mesh: Mesh) -> None:
    named = set(re.findall(r"\bragweave ([a-z][a-z-]+)", PAGE))
    known = mesh.ragweave("--help").stdout
    assert {name for name in named if not re.search(rf"^│ {name} ", known, re.MULTILINE)} == set()


def test_every_setting_named_is_read_somewhere() -> None:
    prefixes = set(re.findall(r'env_prefix="(RAGWEAVE_(?:\w+_)?)"', SETTINGS))
    for setting in set(re.findall(r"RAGWEAVE_[A-Z_]*[A-Z]\b", PAGE)):
        fields = [setting.removeprefix(prefix).lower() for prefix in sorted(prefixes) if setting.startswith(prefix)]
        assert any(re.search(rf"^    {field}: ", SETTINGS, re.MULTILINE) for field in fields), setting
