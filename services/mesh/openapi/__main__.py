"""`python -m services.mesh.openapi --descriptors SET --out FILE` writes the document."""

import argparse
import json
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from ragweave import contract
from services.mesh.openapi.comments import Comments
from services.mesh.openapi.document import document


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.mesh.openapi", description=__doc__)
    parser.add_argument("--descriptors", type=Path, required=True, help="the contract, compiled with its comments")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    chosen = parser.parse_args()
    comments = Comments(FileDescriptorSet.FromString(chosen.descriptors.read_bytes()))
    made = document(contract.methods().values(), comments)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
