"""Where a text may be cut: its headings, paragraphs, items, sentences and lines, and what should stay in one piece."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.jobs.extraction import Syntax


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one heading, the heading's own line included; `path` goes from the outermost heading in.

    Sections of a text lie end to end and cover it; `body` is where the text after the heading begins.
    """

    start: int
    body: int
    end: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Positions at which a unit begins, strongest kind first, each sorted; and spans that should stay in one piece."""

    levels: tuple[tuple[int, ...], ...]
    whole: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    body: int
    level: int
    title: str


_MAX_TITLE = 200
_OPENING = 16384
_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*$", re.MULTILINE)
_TABLE = re.compile(r"(?:^[ \t]*\|.*\n?)+", re.MULTILINE)
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S.*)$", re.MULTILINE)
_UNDERLINE = re.compile(r"^([=\-`:.'\"~^_*+#])\1{2,}[ \t\r]*$", re.MULTILINE)
# A definition in most languages that have such a word; what it defines is named right after.
_DEFINITION = re.compile(
    r"^([ \t]*)(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\(\w+\))?|"
    r"open|override|sealed|data|virtual|inline|unsafe|extern)[ \t]+)*"
    r"(?:def|class|function\*?|func|fn|fun|interface|struct|enum|trait|impl|module|namespace|object|message|service|type)"
    r"[ \t]+(?:\([^)\n]{0,80}\)[ \t]*)?([\w.$:<>]{1,80})",
    re.MULTILINE,
)
_ABOVE_DEFINITION = re.compile(r"[ \t]*(?:@|#|//|/\*|\*)")

_PARAGRAPH = re.compile(r"\n(?:[ \t\r]*\n)+")
_ITEM = re.compile(r"\n(?=[ \t]*(?:(?:[-*+•]|\d{1,3}[.)])[ \t]|\|))")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]*_`]{0,3}\s+(?=[^\sa-z])|[。！？][\"'”’」』）]{0,2}")  # noqa: RUF001  (their punctuation is meant)
_LINE = re.compile(r"\n")


def sections_of(text: str, syntax: Syntax) -> list[Section]:
    """The sections of a text, in order; one without a path where there is no heading before."""
    headings = list(_headings(text, syntax))
    starts = [heading.start for heading in headings]
    sections = []
    if not starts or starts[0] > 0:
        sections.append(Section(0, 0, starts[0] if starts else len(text), ()))
    open_headings: list[_Heading] = []
    for heading, end in zip(headings, [*starts[1:], len(text)], strict=False):
        while open_headings and open_headings[-1].level >= heading.level:
            open_headings.pop()
        open_headings.append(heading)
        path = tuple(outer.title for outer in open_headings)
        sections.append(Section(heading.start, heading.body, end, path))
    return sections


def headline_of(text: str, syntax: Syntax) -> str:
    """The heading a text opens with, or "" where it opens with something else."""
    opening = text[:_OPENING]
    if syntax in (Syntax.CODE, Syntax.RECORDS):
        return ""
    first = next(_headings(opening, syntax), None)
    return first.title if first and not opening[: first.start].strip() else ""


def boundaries_of(text: str, syntax: Syntax) -> Boundaries:
    """Where a text of this syntax may be cut below its sections."""
    if syntax in (Syntax.CODE, Syntax.RECORDS):
        return Boundaries((_ends(_PARAGRAPH, text), _ends(_LINE, text)))
    fences = _fences(text) if syntax == Syntax.MARKDOWN else []
    tables = [found.span() for found in _TABLE.finditer(text) if found[0].count("\n") > 1]
    whole = _merged(fences + tables)
    paragraphs = [at for at in _ends(_PARAGRAPH, text) if not _introduced(text, at)]
    edges = [edge for span in whole for edge in span]
    return Boundaries(
        (
            tuple(sorted({*_outside(paragraphs, whole), *edges})),
            _outside(_ends(_ITEM, text), fences),
            _outside(_ends(_SENTENCE, text), whole),
            _ends(_LINE, text),
        ),
        tuple(whole),
    )


def _headings(text: str, syntax: Syntax) -> Iterator[_Heading]:
    if syntax == Syntax.CODE:
        return _definitions(text)
    if syntax == Syntax.RECORDS:
        return iter(())
    found = [*_underlined(text, syntax), *_atx(text, syntax)]
    fences = _fences(text) if syntax == Syntax.MARKDOWN else []
    inside = {heading.start for heading in found} - set(_outside([heading.start for heading in found], fences))
    return iter(sorted((heading for heading in found if heading.start not in inside), key=lambda it: it.start))


def _atx(text: str, syntax: Syntax) -> Iterator[_Heading]:
    """Lines of `# Heading`; in plain text only between blank lines, since there they are mostly comments."""
    for found in _ATX.finditer(text):
        title = found[2].rstrip().rstrip("#").rstrip() or found[2].strip()
        if syntax == Syntax.PLAIN and not (_blank_before(text, found.start()) and _blank_after(text, found.end())):
            continue
        yield _Heading(found.start(), found.end(), len(found[1]), _plain(title))


def _underlined(text: str, syntax: Syntax) -> Iterator[_Heading]:
    """Setext headings in Markdown (CommonMark 4.3); else reStructuredText's, whose levels follow first appearance."""
    levels: dict[tuple[str, bool], int] = {}
    for found in _UNDERLINE.finditer(text):
        line_start = text.rfind("\n", 0, max(found.start() - 1, 0)) + 1
        title = text[line_start : max(found.start() - 1, 0)].rstrip()
        underline = found[0].rstrip()
        if not title or title[0] in " \t|>" or len(title) > _MAX_TITLE or _UNDERLINE.fullmatch(title):
            continue
        overline = _overline(text, line_start, underline) if syntax == Syntax.PLAIN else None
        start = line_start if overline is None else overline
        if not _blank_before(text, start):
            continue
        if syntax == Syntax.MARKDOWN:
            if underline[0] in "=-":
                yield _Heading(start, found.end(), 1 if underline[0] == "=" else 2, _plain(title))
        elif len(underline) >= len(title.strip()) or len(underline) >= 10:
            level = levels.setdefault((underline[0], overline is not None), len(levels) + 1)
            yield _Heading(start, found.end(), level, title.strip())


def _overline(text: str, line_start: int, underline: str) -> int | None:
    """Where the line above a title starts, if it is the twin of the one below."""
    start = text.rfind("\n", 0, max(line_start - 1, 0)) + 1
    return start if line_start and text[start : line_start - 1].rstrip() == underline else None


def _definitions(text: str) -> Iterator[_Heading]:
    """Definitions in source code, each from the decorators and comments right above it; indentation is their level."""
    at = 0
    for found in _DEFINITION.finditer(text):
        start = found.start()
        while start > at:
            above = text.rfind("\n", 0, start - 1) + 1
            if above < at or not _ABOVE_DEFINITION.match(text, above, start):
                break
            start = above
        at = found.end()
        indent = len(found[1].expandtabs(4))
        yield _Heading(start, start, 1 + min(indent, 64), found[2].rstrip(":<"))


def _plain(title: str) -> str:
    """A Markdown heading without its markup."""
    title = title[: 10 * _MAX_TITLE]
    title = re.sub(r"!?\[([^\]]{0,200})\]\([^)]{0,500}\)", r"\1", title)
    return re.sub(r"[*`]+", "", title).strip()[:_MAX_TITLE]


def _blank_before(text: str, start: int) -> bool:
    if start == 0:
        return True
    line_start = text.rfind("\n", 0, start - 1) + 1
    return not text[line_start:start].strip()


def _blank_after(text: str, end: int) -> bool:
    next_end = text.find("\n", end + 1)
    return not text[end : next_end if next_end >= 0 else len(text)].strip()


def _introduced(text: str, at: int) -> bool:
    """Whether the block starting here is indented under a paragraph ending with a colon, as examples are."""
    if text[at : at + 1] not in (" ", "\t"):
        return False
    before = at - 1
    while before > 0 and text[before].isspace() and at - before < 16:
        before -= 1
    return text[before] == ":"


def _fences(text: str) -> list[tuple[int, int]]:
    """Spans of fenced code (CommonMark 4.5); one that is never closed runs to the end."""
    spans, opened, fence = [], -1, ""
    for found in _FENCE.finditer(text):
        if opened < 0:
            opened, fence = found.start(), found[1]
        elif found[1].startswith(fence) and found[0].strip() == found[1]:
            spans.append((opened, min(found.end() + 1, len(text))))
            opened = -1
    if opened >= 0:
        spans.append((opened, len(text)))
    return spans


def _ends(pattern: re.Pattern[str], text: str) -> tuple[int, ...]:
    return tuple(found.end() for found in pattern.finditer(text))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, without those that begin inside another."""
    kept: list[tuple[int, int]] = []
    for span in sorted(spans):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _outside(positions: list[int] | tuple[int, ...], spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """The positions that are not inside a span; both sorted."""
    kept, place = [], 0
    for at in positions:
        while place < len(spans) and spans[place][1] <= at:
            place += 1
        if place == len(spans) or at <= spans[place][0]:
            kept.append(at)
    return tuple(kept)
