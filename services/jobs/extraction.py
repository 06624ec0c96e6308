"""What extraction gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Syntax(StrEnum):
    """How a text shows its structure."""

    PLAIN = "plain"
    MARKDOWN = "markdown"
    CODE = "code"
    RECORDS = "records"


@dataclass(frozen=True, slots=True)
class Page:
    """A page, slide or sheet: its number from 1, its span in the text, and the sheet's name."""

    number: int
    start: int
    end: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """The text of a document; offsets are Unicode code points, line ends are `\\n`."""

    text: str
    mime_type: str
    syntax: Syntax = Syntax.PLAIN
    title: str = ""
    pages: tuple[Page, ...] = ()
    metadata: Mapping[str, str | int] = field(default_factory=dict)
