"""Generates from protos/ what is committed: `python protos/generate.py [folder]`, the repository by default.

The stubs, and the OpenAPI document with the protos' comments.

The validation rules' own stubs have no package of their own on PyPI, so they are generated beside ours and the
generated imports are pointed there.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
VENDORED = ROOT / "third_party" / "protos"
# Beside this Python, whatever PATH says.
PLUGINS = [
    f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
]
GENERATED = ("ragweave/v1", "ragweave/internal", "ragweave/third_party")
OPENAPI = "docs/openapi.json"


def generate(out: Path) -> None:
    """Writes ragweave/{v1,internal,third_party} below `out`, replacing what is there."""
    protos = sorted(SOURCES.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        code = protoc.main(
            [
                "protoc",
                *PLUGINS,
                f"-I{SOURCES}",
                f"-I{VENDORED}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--python_out={made}",
                f"--mypy_out=quiet:{made}",
                f"--grpc_python_out={made}",
                f"--mypy_grpc_out=quiet:{made}",
                *(str(p) for p in protos),
            ]
        )
        code = code or protoc.main(
            [
                "protoc",
                *PLUGINS,
                f"-I{VENDORED}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--python_out={made}",
                f"--mypy_out=quiet:{made}",
                str(VENDORED / "buf/validate/validate.proto"),
            ]
        )
        if code:
            raise SystemExit(code)
        (made / "ragweave/third_party").mkdir()
        (made / "buf").rename(made / "ragweave/third_party/buf")
        for path in made.rglob("*.py*"):
            text = path.read_text()
            for pattern, replacement in (
                (r"^from buf\.validate import", "from ragweave.third_party.buf.validate import"),
                (r"^import buf\.validate", "import ragweave.third_party.buf.validate"),
                (r"(?<![\w.\"'/])buf\.validate\.validate_pb2", "ragweave.third_party.buf.validate.validate_pb2"),
            ):
                text = re.sub(pattern, replacement, text, flags=re.M)
            path.write_text(text)
        for path in made.rglob("*_pb2_grpc.py"):
            if "add_" not in path.read_text():  # messages only: an empty stub
                path.unlink()
                path.with_suffix(".pyi").unlink(missing_ok=True)
        for package in GENERATED:
            shutil.rmtree(out / package, ignore_errors=True)
            shutil.copytree(made / package, out / package)
            for folder_path in [out / package, *(p for p in (out / package).rglob("*") if p.is_dir())]:
                (folder_path / "__init__.py").write_text("")


def describe(out: Path) -> None:
    """Writes the OpenAPI document below `out`, by the stubs in the repository: from a process that has none loaded."""
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder) / "contract.binpb"
        code = protoc.main(
            [
                "protoc",
                f"-I{SOURCES}",
                f"-I{VENDORED}",
                f"-I{files('grpc_tools') / '_proto'}",
                "--include_imports",
                "--include_source_info",
                f"--descriptor_set_out={descriptors}",
                *(str(path) for path in sorted((SOURCES / "ragweave/v1").glob("*.proto"))),
            ]
        )
        if code:
            raise SystemExit(code)
        line = [sys.executable, "-m", "services.mesh.openapi", "--descriptors", descriptors, "--out", out / OPENAPI]
        subprocess.run(line, cwd=ROOT, check=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT
    generate(folder)
    describe(folder)
