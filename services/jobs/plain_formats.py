"""Text out of the formats that need no parser of their own; stdlib only, since the extractor's child imports it."""

import codecs
import csv
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:+-]{1,40})", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?[\d., %€$£]+")
# What the csv module looks at to tell separators and quotes, in whole lines: its patterns take quadratic time.
_SNIFFED = 4096
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,2000}?)</title", re.IGNORECASE | re.DOTALL)


class Refused(Exception):
    """A document that gives no text: the domain error's reason, and what to say after the document's name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def unreadable(message: str) -> Refused:
    return Refused("UNREADABLE_DOCUMENT", message)


def decode(content: bytes, charset: str = "", *, markup: bool = False) -> str:
    """Bytes to text with `\\n` line ends: by byte order mark, UTF-8, declared charset, HTML's own, then Windows-1252.

    The last is a guess, so it is only made where the result can be Western text: hardly a control character, and fewer
    than three bytes in ten outside ASCII.

    Raises:
        Refused: binary content, or an encoding that cannot be told.
    """
    text = _decoded(content, charset, markup)
    if "\0" in text or len(_CONTROLS.findall(text)) > len(text) // 100:
        raise Refused("UNSUPPORTED_MEDIA_TYPE", "it holds binary data, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes, charset: str, markup: bool) -> str:
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            text = _try(content[len(mark) :], encoding)
            if text is None:
                raise unreadable(f"it starts as {encoding.upper()} text, but is not valid {encoding.upper()}")
            return text
    text = _try(content, "utf-8")
    if text is not None:
        return text
    if markup and not charset and (found := _META_CHARSET.search(content[:4096])):
        charset = found[1].decode("ascii", "replace")
    if charset and (text := _try(content, charset)) is not None:
        return text
    if b"\0" in content:
        raise Refused("UNSUPPORTED_MEDIA_TYPE", "it holds binary data, not text")
    beyond_ascii = len(content) - len(content.translate(None, bytes(range(128, 256))))
    if beyond_ascii * 10 < len(content) * 3 and (text := _try(content, "cp1252")) is not None:
        return text
    raise unreadable("its text encoding cannot be told; convert it to UTF-8 or declare a charset")


def _try(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (UnicodeError, LookupError, ValueError):
        return None


def html_title(markup: str) -> str:
    found = _TITLE.search(markup[:65536])
    return " ".join(html.unescape(found[1]).split()) if found else ""


def csv_records(text: str) -> str:
    """One line a row, each value under its column's name; see `records`.

    Raises:
        Refused: a field over the csv module's limit, or rows that do not parse.
    """
    sample = text[: text.rfind("\n", 0, _SNIFFED) + 1 or _SNIFFED]
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(sample, delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel_tab if "\t" in sample else csv.excel
    try:
        return "\n".join(records(csv.reader(io.StringIO(text, newline=""), dialect)))
    except csv.Error:
        raise unreadable("its rows do not parse as CSV") from None


def records(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows as `column: value; column: value`, so that each stands for itself wherever a chunk begins.

    The first row names the columns if its cells are distinct, filled and no numbers; else values are joined by commas.
    """
    lines = (tuple(" ".join(cell.split()) for cell in row) for row in rows)
    first = next((cells for cells in lines if any(cells)), ())
    second = next((cells for cells in lines if any(cells)), ())
    columns = first if second and _name_columns(first) else ()
    body = chain((second,) if columns else (first, second), lines)
    for cells in body:
        named = (
            f"{name}: {cell}" if name else cell for name, cell in zip_longest(columns, cells, fillvalue="") if cell
        )
        line = ("; " if columns else ", ").join(named)
        if line:
            yield line


def _name_columns(cells: Sequence[str]) -> bool:
    return len(set(cells)) == len(cells) and all(cell and not _NUMBER.fullmatch(cell) for cell in cells)


def json_lines(text: str) -> str:
    """Every value of a JSON document on a line of its own, under its path: `orders[0].customer: Alice`.

    The elements of a list at the top are parted by blank lines, as are the documents of a JSON Lines file.

    Raises:
        Refused: not JSON; the message says where.
    """
    try:
        parsed = _json_documents(text)
        return "\n\n".join("\n".join(_leaves(value, "")) for value in parsed)
    except RecursionError:
        raise unreadable("its JSON is nested too deep") from None


def _json_documents(text: str) -> list[object]:
    try:
        whole = _json(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise unreadable(f"not valid JSON at line {error.lineno} column {error.colno}") from None
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            documents += [_json(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise unreadable(f"not valid JSON at line {number} column {error.colno}") from None
    return documents


def _json(text: str) -> object:
    # Numbers stay as written: no rounding, and no quadratic parse of a million digits.
    return json.loads(text, parse_int=str, parse_float=str)


def _leaves(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    elif value is not None and value != "":
        shown = value if isinstance(value, str) else json.dumps(value)
        yield f"{path}: {shown}" if path else shown
