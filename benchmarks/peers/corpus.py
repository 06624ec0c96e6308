"""The chunks that every contestant searches: texts that come with Python and with pinned packages, always the same."""

import ast
import hashlib
import importlib.util
import pydoc_data.topics
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Whose docstrings follow the language reference, in this order: the standard library's first.
_PACKAGES: Final = ("sqlalchemy", "numpy")
_LEFT_OUT: Final = {"test", "tests", "idle_test", "lib2to3", "site-packages", "__pycache__"}
# Most characters of a chunk: 100 tokens or so. The least keeps headings and one-line docstrings out.
_LONGEST: Final = 500
_SHORTEST: Final = 150
# Least share of letters and spaces: tables and rulers are left out. 500 characters of these may be more than 256
# tokens, the most that a chunk of ours may have.
_PROSE: Final = 0.8
# Closes the last passage of a text: a line that fits in none.
_END: Final = "-" * _LONGEST
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class TooLittleText(Exception):
    """The texts do not make as many chunks as are asked for."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage, the same for everybody."""

    id: str
    text: str


def chunks(count: int) -> list[Chunk]:
    """The first so many passages, no text twice.

    Raises:
        TooLittleText: There are not as many.
    """
    made: dict[str, Chunk] = {}
    for text in _texts():
        for passage in passages(text):
            made.setdefault(passage, Chunk(f"chunk-{len(made):05}", passage))
            if len(made) == count:
                return list(made.values())
    raise TooLittleText(f"{count:,} chunks are asked for, and the texts make {len(made):,}")


def passages(text: str) -> Iterator[str]:
    """Prose of whole lines, as many as fit, one space between words; a line that does not fit alone is left out."""
    taken = ""
    for line in (*(" ".join(each.split()) for each in text.splitlines()), _END):
        if taken and len(taken) + 1 + len(line) > _LONGEST:
            if _is_prose(taken):
                yield taken
            taken = ""
        taken = f"{taken} {line}".strip() if len(line) < _LONGEST else ""


def _is_prose(passage: str) -> bool:
    return len(passage) >= _SHORTEST and len(re.findall(r"[A-Za-z ]", passage)) >= _PROSE * len(passage)


def words(corpus: Sequence[Chunk]) -> list[str]:
    """What questions are made of: the words of four letters and more."""
    return sorted({word for chunk in corpus for word in re.findall(r"\b[a-z]{4,}\b", chunk.text)})


def digest(corpus: Sequence[Chunk]) -> str:
    """16 hex digits that change with any chunk."""
    return hashlib.sha256("\0".join(chunk.text for chunk in corpus).encode()).hexdigest()[:16]


def _texts() -> Iterator[str]:
    yield from (text for _, text in sorted(pydoc_data.topics.topics.items()))
    yield from _docstrings(Path(sysconfig.get_paths()["stdlib"]))
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec and spec.submodule_search_locations, package
        yield from _docstrings(Path(spec.submodule_search_locations[0]))


def _docstrings(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        if _LEFT_OUT.isdisjoint(file.relative_to(folder).parts):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # of their code, which is none of ours
                tree = ast.parse(file.read_bytes())
            for node in ast.walk(tree):
                if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
                    yield text
