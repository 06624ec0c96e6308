"""Labelled sets to rank: passages, questions and which passages answer them; and vectors that need no model."""

import functools
import hashlib
import importlib
import inspect
import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from tests.labelled import QUESTIONS

DIMENSION = 96
_MANUAL = "/usr/share/man"

_QUESTIONS = {
    "how do I catch several exception types": "try",
    "what does a context manager's exit method receive": "context-managers",
    "difference between is and ==": "comparisons",
    "format a float with two decimals": "formatstrings",
    "how are default arguments evaluated": "function",
    "what happens when a name is not found": "naming",
    "leave a loop early": "break",
    "skip to the next iteration of the loop": "continue",
    "what does assert do with the optimization flag": "assert",
    "import a name from a module under another name": "import",
    "modify a variable of the enclosing function": "nonlocal",
    "slicing a list with a step": "sequences",
    "raise an exception from another exception": "raise",
    "operator precedence": "operator-summary",
    "customize attribute access": "attribute-access",
    "emulate a container type": "sequence-types",
    "match a value against patterns": "compound",
    "methods of strings such as split and strip": "string-methods",
    "keys of a dictionary view": "typesmapping",
    "step through code in the debugger": "debugger",
    "generator expressions and yield": "yieldexpr",
    "bitwise and shift operations": "bitwise",
    "lambda creates an anonymous function": "lambda",
    "delete an item or attribute": "del",
    "integer literals with underscores": "integers",
    "class definition and inheritance": "class",
    "mutable and immutable sequence operations": "typesseq-mutable",
    "how are boolean operations evaluated": "booleans",
    "what does the with statement do": "with",
    "unicode escape sequences in string literals": "strings",
}


@dataclass(frozen=True)
class LabelledSet:
    """Passages by id, questions, and the ids that answer each question."""

    passages: dict[str, str]
    answers: dict[str, frozenset[str]]


@functools.cache
def language_reference() -> LabelledSet:
    """The topics that ship with Python, cut at blank lines; a question is answered by every passage of its topic."""
    passages = {f"{name}#{n}": text for name, topic in topics.items() for n, text in enumerate(_cut(topic, 900))}
    answers = {
        question: frozenset(id_ for id_ in passages if id_.partition("#")[0] == topic)
        for question, topic in _QUESTIONS.items()
        if topic in topics
    }
    return LabelledSet(passages, answers)


@functools.cache
def library_docstrings() -> LabelledSet:
    """Docstrings of the standard library: the first sentence asks for the rest, among all the others."""
    passages: dict[str, str] = {}
    answers: dict[str, frozenset[str]] = {}
    for module_name in (
        "argparse",
        "asyncio",
        "email.message",
        "inspect",
        "logging",
        "os",
        "shutil",
        "socket",
        "string",
        "subprocess",
        "tarfile",
        "tempfile",
        "threading",
        "unittest",
        "urllib.parse",
        "zipfile",
    ):
        module = importlib.import_module(module_name)
        for name, member in sorted(vars(module).items()):
            for path, documented in [(name, member), *_methods(name, member)]:
                asked, _, rest = (inspect.getdoc(documented) or "").partition("\n")
                if callable(documented) and len(rest) > 200 and len(asked) > 15:
                    id_ = f"{module_name}.{path}"
                    passages[id_] = rest.strip()[:2000]
                    answers[asked] = frozenset({id_})
    return LabelledSet(passages, answers)


@functools.cache
def judged_questions() -> LabelledSet:
    """The same passages, and the questions of which every topic that answers them is known."""
    passages = language_reference().passages
    answers = {
        question: frozenset(id_ for id_ in passages if id_.partition("#")[0] in right)
        for question, right in QUESTIONS.items()
    }
    return LabelledSet(passages, answers)


@functools.cache
def manual_pages(limit: int = 1500) -> LabelledSet:
    """Some manual pages of this machine: what one says of itself in a line asks for its description, among the others.

    Empty where there is no `man`.
    """
    passages: dict[str, str] = {}
    answers: dict[str, frozenset[str]] = {}
    pages = sorted(page for section in "138" for page in Path(_MANUAL, f"man{section}").glob("*.gz"))
    random.Random(1).shuffle(pages)
    for page in pages if shutil.which("man") else []:
        if len(passages) == limit:
            break
        asked, described = _manual_page(page)
        if len(asked) >= 15 and len(described) >= 150:
            passages[page.name] = described
            answers[asked] = answers.get(asked, frozenset()) | {page.name}
    return LabelledSet(passages, answers)


def _manual_page(page: Path) -> tuple[str, str]:
    settings = {**os.environ, "MANWIDTH": "200", "MANOPT": "--nj --nh"}
    shown = subprocess.run(["man", "-P", "cat", "-l", page], env=settings, capture_output=True, text=True)
    text = re.sub(".\x08", "", shown.stdout)
    name = re.search(r"^NAME\n\s+(.*?)\n\n", text, re.S | re.M)
    description = re.search(r"^DESCRIPTION\n(.*)", text, re.S | re.M)
    parts = re.split(r" [-\u2010-\u2014] ", " ".join(name[1].split()) if name else "", maxsplit=1)
    return parts[-1] if len(parts) == 2 else "", " ".join(description[1].split())[:1500] if description else ""


def embedded(text: str) -> NDArray[np.float32]:
    """A unit vector near to those of texts with the same words and pieces of words (random indexing)."""
    total = np.zeros(DIMENSION, np.float64)
    for word in re.findall(r"\w+", text.lower()):
        for piece in {word, word[:4], word[:6]}:
            total += _piece(piece) / (1 + _frequency().get(piece, 0)) ** 0.5
    length = np.linalg.norm(total)
    return (total / length if length else total).astype("<f4")


@functools.cache
def _piece(piece: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIMENSION)


@functools.cache
def _frequency() -> dict[str, int]:
    counts: dict[str, int] = {}
    for topic in topics.values():
        for word in re.findall(r"\w+", topic.lower()):
            for piece in {word, word[:4], word[:6]}:
                counts[piece] = counts.get(piece, 0) + 1
    return counts


def _methods(name: str, member: object) -> list[tuple[str, object]]:
    if not inspect.isclass(member):
        return []
    return [(f"{name}.{attribute}", value) for attribute, value in sorted(vars(member).items())]


def _cut(text: str, length: int) -> list[str]:
    passages = [""]
    for paragraph in text.split("\n\n"):
        if passages[-1] and len(passages[-1]) + len(paragraph) > length:
            passages.append("")
        passages[-1] += paragraph + "\n\n"
    return [passage.strip() for passage in passages if passage.strip()]
