"""The contract's files: stubs match their sources, and what is public has a REST form. `make lint` has the rest."""

import subprocess
import sys
from pathlib import Path

from ragweave import contract

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("ragweave/v1", "ragweave/internal", "ragweave/third_party")
OPENAPI = "docs/openapi.json"


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for package in GENERATED
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_what_is_committed_is_exactly_what_the_protos_generate(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", tmp_path], check=True)
    assert (tmp_path / OPENAPI).read_text() == (ROOT / OPENAPI).read_text(), "stale document; run `make protos`"
    fresh, committed = _files(tmp_path), _files(ROOT)
    assert sorted(fresh) == sorted(committed), "files were added or removed; run `make protos`"
    assert [name for name in fresh if fresh[name] != committed[name]] == [], "stale stubs; run `make protos`"


def test_every_public_unary_method_is_reachable_over_rest() -> None:
    unreachable = {m.path for m in contract.methods().values() if not m.internal and not m.http}
    assert unreachable == {"/ragweave.v1.EmbeddingService/StreamEmbed"}, "bidirectional streams are gRPC only"


def test_internal_methods_have_no_rest_form() -> None:
    assert not [m.path for m in contract.methods().values() if m.internal and m.http]
