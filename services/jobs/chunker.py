"""Cuts extracted text into chunks the embedding model takes whole: by structure, or by a fixed number of tokens."""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from services.jobs.extraction import ExtractedText, Page
from services.jobs.ports_content import Tokenizer
from services.jobs.structure import Boundaries, Section, boundaries_of, sections_of
from services.mesh.errors import InvalidArgument


class Strategy(StrEnum):
    """A way of cutting."""

    STRUCTURE = "structure"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: `text` is exactly the extracted text from `start_offset` to `end_offset`, in code points.

    What is embedded is `embed_text`: the passage under its context, a line of title and headings. `token_count` is what
    the model sees of that, special tokens included.
    """

    ordinal: int
    text: str
    start_offset: int
    end_offset: int
    token_count: int
    section: str = ""
    context: str = ""
    page: int | None = None

    @property
    def embed_text(self) -> str:
        return f"{self.context}\n{self.text}" if self.context else self.text


MIN_TOKENS = 32
DEFAULT_MAX_TOKENS = 256
DEFAULT_OVERLAP_TOKENS = 0

SEPARATOR = " > "
_MAX_SECTION = 1024
# Sections smaller than this join a neighbour under the same heading.
_SMALL_SECTION = 48
# No token of a vocabulary is longer; a longer span is a word the model reads as unknown, and may be cut anywhere.
_LONGEST_TOKEN = 32
# A chunk spans at most so many characters a token allowed, however much of it is blank.
_CHARACTERS_PER_TOKEN = 32
# Texts are handed to the tokenizer in pieces of about so many characters: it runs them on all cores.
_PIECE = 4096
_PIECES_AT_ONCE = 256
_MAX_INDENT = 64

_NOT_BLANK = re.compile(r"\S")

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Group:
    """Sections cut together: their span, the headings they share, and the context each chunk is embedded under."""

    start: int
    end: int
    path: tuple[str, ...]
    bare: bool = False
    context: str = ""
    budget: int = 0


class Chunker:
    """Cuts texts; the same text gives the same chunks. CPU-bound for about half a second a megabyte: use a thread.

    Args:
        tokenizer: The embedding model's own.
        max_tokens: Most tokens the model is shown of a chunk, its context and special tokens included.
        overlap_tokens: Most tokens repeated from the end of one chunk at the start of the next, in the same section.
        strategy: By structure, or fixed windows.

    Raises:
        InvalidArgument: max_tokens under 32, or an overlap of half of it or more.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        overlap_tokens: int = DEFAULT_OVERLAP_TOKENS,
        strategy: Strategy = Strategy.STRUCTURE,
    ) -> None:
        if max_tokens < MIN_TOKENS:
            raise InvalidArgument.of("max_tokens", f"must be at least {MIN_TOKENS}")
        if not 0 <= overlap_tokens < max_tokens / 2:
            raise InvalidArgument.of("overlap_tokens", "must be at least 0 and less than half of max_tokens")
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._overlap = overlap_tokens
        self._strategy = strategy

    def chunk(self, extracted: ExtractedText, *, title: str = "") -> list[Chunk]:
        """The chunks of a text, in order; together they hold all of it but blank stretches.

        Args:
            extracted: The text and what is known of its structure.
            title: Heads the context of every chunk; the text's own title where empty.
        """
        text = extracted.text
        by_structure = self._strategy is Strategy.STRUCTURE
        boundaries = boundaries_of(text, extracted.syntax) if by_structure else Boundaries(())
        cutter = _Cutter(text, self._token_starts(text), boundaries)
        groups = self._groups(sections_of(text, extracted.syntax), cutter) if by_structure else [_whole(text)]
        planned = [
            (group, span)
            for group in self._with_contexts(groups, title or extracted.title)
            for span in cutter.cut((group.start, group.end), group.budget, self._overlap)
        ]
        return [
            Chunk(
                ordinal=ordinal,
                text=text[start:end],
                start_offset=start,
                end_offset=end,
                token_count=count,
                section=SEPARATOR.join(group.path)[:_MAX_SECTION],
                context=group.context,
                page=_page_at(extracted.pages, start),
            )
            for ordinal, (group, (start, end), count) in enumerate(self._fitting(planned, cutter))
        ]

    def _token_starts(self, text: str) -> NDArray[np.int32]:
        """Where each token starts, in order. Encoded in pieces cut between words, so that no token is split."""
        pieces = list(_pieces(text))
        starts = [np.empty(0, np.int32)]
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            batch = pieces[first : first + _PIECES_AT_ONCE]
            for (start, _), spans in zip(batch, self._tokenizer.spans([text[a:b] for a, b in batch]), strict=True):
                starts.append(_flattened(spans) + start)
        return np.concatenate(starts)

    def _groups(self, sections: Sequence[Section], cutter: "_Cutter") -> list[_Group]:
        """Sections, small ones joined to a neighbour: a bare heading to what it heads, siblings to one another."""
        room = self._max_tokens * 2 // 3
        groups: list[_Group] = []
        sizes: list[int] = []
        for section in sections:
            size = cutter.tokens(section.start, section.end)
            group = _Group(section.start, section.end, section.path, cutter.blank(section.body, section.end))
            last = groups[-1] if groups else None
            if last and sizes[-1] + size <= room:
                below = group.path[: len(last.path)] == last.path
                siblings = len(group.path) == len(last.path) and group.path[:-1] == last.path[:-1]
                small, least = sizes[-1] < _SMALL_SECTION, min(size, sizes[-1])
                if (last.bare and below) or ((below or siblings) and least < _SMALL_SECTION):
                    leads = below and (last.bare or (small and size >= _SMALL_SECTION))
                    path = group.path if leads else last.path if below else last.path[:-1]
                    groups[-1] = _Group(last.start, group.end, path, last.bare and group.bare)
                    sizes[-1] += size
                    continue
            groups.append(group)
            sizes.append(size)
        return groups

    def _with_contexts(self, groups: Sequence[_Group], title: str) -> list[_Group]:
        """Each group with the line its chunks are embedded under, and the tokens that leaves for their text."""
        title = " ".join(title.split())
        # A heading over the whole text is the text's own title: next to the given one it tells nothing more.
        tops = {group.path[:1] for group in groups if not group.bare or group.path}
        headed = int(bool(title) and len(tops) == 1)
        wanted = [SEPARATOR.join(filter(None, (title, *group.path[headed:]))) for group in groups]
        known = dict.fromkeys(wanted, ("", 0))
        for context, clipped in zip(known, self._clipped(list(known)), strict=True):
            known[context] = clipped
        return [
            replace(group, context=known[context][0], budget=self._max_tokens - known[context][1])
            for group, context in zip(groups, wanted, strict=True)
        ]

    def _clipped(self, contexts: Sequence[str]) -> list[tuple[str, int]]:
        """Contexts of at most a third of the tokens, cut after a token where longer; each with what it costs."""
        most = self._max_tokens // 3 - 4
        clipped = []
        for context, spans in zip(contexts, self._tokenizer.spans(list(contexts)), strict=True):
            starts = _flattened(spans)
            clipped.append(context if len(starts) <= most else context[: starts[most]].rstrip(SEPARATOR))
        return list(zip(clipped, self._tokenizer.counts(clipped), strict=True))

    def _fitting(self, planned: Sequence[tuple[_Group, _Span]], cutter: "_Cutter") -> list[tuple[_Group, _Span, int]]:
        """The planned chunks with what the model really counts; the few that come out over the limit are cut again."""
        embedded = [
            f"{group.context}\n{cutter.text[start:end]}" if group.context else cutter.text[start:end]
            for group, (start, end) in planned
        ]
        fitting = []
        for first in range(0, len(planned), _PIECES_AT_ONCE):
            batch = embedded[first : first + _PIECES_AT_ONCE]
            for (group, span), count in zip(planned[first:], self._tokenizer.counts(batch), strict=False):
                if count <= self._max_tokens or span[1] - span[0] == 1:
                    fitting.append((group, span, count))
                else:
                    fitting += self._fitting([(group, half) for half in cutter.halves(span)], cutter)
        return fitting


class _Cutter:
    """One text with its token starts and boundaries: finds where to cut. Token numbers here may be off by a few."""

    def __init__(self, text: str, token_starts: NDArray[np.int32], boundaries: Boundaries) -> None:
        self.text = text
        self._starts = array("i", token_starts.tobytes())  # bisect is quick on it; numpy would convert it each time
        self._boundaries = boundaries

    def tokens(self, start: int, end: int) -> int:
        return self._index(end) - self._index(start)

    def blank(self, start: int, end: int) -> bool:
        return _NOT_BLANK.search(self.text, start, end) is None

    def cut(self, span: _Span, budget: int, overlap: int) -> Iterator[_Span]:
        """Spans of at most `budget` tokens, cut at the strongest boundary that leaves them of about equal size."""
        begin, end = span
        covered = begin
        overlap = min(overlap, budget // 2)
        while not self.blank(covered, end):
            limit = self._reach(begin, end, budget)
            if limit <= covered:  # the overlap alone is too long in characters
                begin = covered
                continue
            stop = end if limit >= end else self._best(begin, covered, limit, end, budget)
            if trimmed := self._trimmed(begin, stop):
                yield trimmed
            covered = stop
            begin = self._overlapped(begin, stop, overlap)

    def halves(self, span: _Span) -> list[_Span]:
        """A span in two or more, by boundaries if it has several tokens, else in the middle."""
        start, end = span
        tokens = self.tokens(start, end)
        spans = list(self.cut(span, max(1, tokens // 2), 0)) if tokens > 1 else []
        if len(spans) > 1:
            return spans
        middle = (start + end) // 2
        return [trimmed for part in ((start, middle), (middle, end)) if (trimmed := self._trimmed(*part))]

    def _index(self, at: int) -> int:
        return bisect_left(self._starts, at)

    def _at(self, index: int) -> int:
        return self._starts[index] if index < len(self._starts) else len(self.text)

    def _reach(self, begin: int, end: int, budget: int) -> int:
        """The end of the longest text from `begin` within the budget."""
        limit = min(end, self._at(self._index(begin) + budget), begin + budget * _CHARACTERS_PER_TOKEN)
        return max(limit, begin + 1)

    def _best(self, begin: int, covered: int, limit: int, end: int, budget: int) -> int:
        """Where to stop, after `covered` and at most at `limit`."""
        tokens = self.tokens(begin, end)
        target = tokens / max(1, -(-tokens // budget))
        first = self._index(begin)
        least = max(covered + 1, min(self._at(first + int(target / 2)), limit))
        stop = self._nearest(least, limit, self._at(first + round(target))) or self._word(least, limit)
        place = bisect_left(self._boundaries.whole, (stop, stop)) - 1
        if place >= 0:
            start, finish = self._boundaries.whole[place]
            if max(begin, covered) < start < stop < finish and self.tokens(start, finish) <= budget:
                return start
        return stop

    def _nearest(self, least: int, limit: int, ideal: int) -> int | None:
        """The boundary nearest to `ideal`, of the strongest kind that has one in reach."""
        for level in self._boundaries.levels:
            candidates = level[bisect_left(level, least) : bisect_right(level, limit)]
            if candidates:
                return min(candidates, key=lambda at: abs(at - ideal))
        return None

    def _word(self, least: int, limit: int) -> int:
        """The last start of a word in reach, else the limit."""
        for index in range(self._index(limit), max(self._index(least), self._index(limit) - 64) - 1, -1):
            at = self._at(index)
            if least <= at <= limit and self.text[at - 1].isspace():
                return at
        return limit

    def _overlapped(self, begin: int, stop: int, overlap: int) -> int:
        """Where the chunk after `stop` begins: at a boundary or word at most `overlap` tokens before it."""
        if not overlap:
            return stop
        index = max(self._index(stop) - overlap, self._index(begin) + 1)
        earliest = self._at(index)
        for level in self._boundaries.levels:
            place = bisect_left(level, earliest)
            if place < len(level) and level[place] < stop:
                return level[place]
        while index < self._index(stop) and not self.text[self._at(index) - 1].isspace():
            index += 1
        return min(self._at(index), stop)

    def _trimmed(self, start: int, end: int) -> _Span | None:
        """Without blanks around, but with the indentation of the first line."""
        found = _NOT_BLANK.search(self.text, start, end)
        if not found:
            return None
        first = found.start()
        line = max(self.text.rfind("\n", start, first) + 1, start)
        indent = self.text[line:first]
        own_line = line > start or start == 0 or self.text[start - 1] == "\n"
        if own_line and len(indent) <= _MAX_INDENT and not indent.strip(" \t"):
            first = line
        return first, start + len(self.text[start:end].rstrip())


def _whole(text: str) -> _Group:
    return _Group(0, len(text), ())


def _page_at(pages: Sequence[Page], at: int) -> int | None:
    place = bisect_right(pages, at, key=lambda page: page.start) - 1
    return pages[place].number if place >= 0 else None


def _pieces(text: str) -> Iterator[_Span]:
    """Spans of about `_PIECE` characters, cut after a line or between words where there are any."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            at = text.rfind("\n", start + 1, end)
            at = at if at > 0 else text.rfind(" ", start + 1, end)
            end = at if at > 0 else end
        yield start, min(end, len(text))
        start = end


def _flattened(spans: Sequence[_Span]) -> NDArray[np.int32]:
    """Starts of tokens, a span too long for any token counting once a character."""
    bounds = np.asarray(spans, np.int32).reshape(-1, 2)
    lengths = bounds[:, 1] - bounds[:, 0]
    repeats = np.where(lengths > _LONGEST_TOKEN, lengths, 1)
    firsts = np.repeat(bounds[:, 0], repeats)
    return np.asarray(firsts + np.arange(len(firsts)) - np.repeat(np.cumsum(repeats) - repeats, repeats), np.int32)
