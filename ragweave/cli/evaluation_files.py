"""Files of sample queries, and of judgements beside them."""

import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ragweave.cli.console import fail
from ragweave.v1 import evaluation_pb2


def queries(path: Path, qrels: Path | None) -> Iterator[evaluation_pb2.SampleQuery]:
    """The queries of a file of JSON lines; with judgements in a file beside it, those that were judged."""
    judged = _judged(qrels) if qrels else {}
    for line, row in _rows(path):
        try:
            id_ = str(row.get("id") or row["_id"])
            relevant = judged.get(id_, {}) if qrels else dict(row["relevant"])
            if relevant:
                yield evaluation_pb2.SampleQuery(
                    id=id_,
                    text=row.get("query") or row["text"],
                    relevant=[
                        evaluation_pb2.SampleQuery.Judgement(name=name, grade=operator.index(grade))
                        for name, grade in relevant.items()
                    ],
                )
        except (KeyError, TypeError, ValueError, AttributeError):
            fail(f'{path}:{line}: is no {{"id": "...", "query": "...", "relevant": {{"document id": grade}}}}')


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Its lines by their numbers, blank ones aside."""
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.strip():
            try:
                yield line, json.loads(text)
            except ValueError as error:
                fail(f"{path}:{line}: is no JSON: {error}")


def _judged(path: Path) -> dict[str, dict[str, int]]:
    """Grades by query and document: lines of `query document grade`, or of TREC's `query 0 document grade`."""
    judged: dict[str, dict[str, int]] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = text.split()
        if not parts or (line == 1 and not parts[-1].lstrip("-").isdecimal()):
            continue  # BEIR's first line names the columns
        if len(parts) not in (3, 4) or not parts[-1].lstrip("-").isdecimal():
            fail(f"{path}:{line}: is neither `query document grade` nor `query 0 document grade`")
        judged.setdefault(parts[0], {})[parts[-2]] = max(0, int(parts[-1]))
    return judged
