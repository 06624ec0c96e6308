"""What kind a file is, and whether imports take it: by its magic, then as declared, then by its name."""

import codecs
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from services.mesh.errors import EmptyDocument, UnreadableDocument, UnsupportedMediaType


@dataclass(frozen=True, slots=True)
class MediaType:
    """What a document is taken for."""

    name: str
    charset: str = ""


PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
HTML = "text/html"
MARKDOWN = "text/markdown"
RST = "text/x-rst"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
CODE = "text/x-source"
TEXT = "text/plain"

SUPPORTED = "text, Markdown, HTML, PDF, DOCX, PPTX, XLSX, CSV, JSON, EPUB and source code"

_EXTENSIONS = {
    "pdf": PDF, "docx": DOCX, "pptx": PPTX, "xlsx": XLSX, "epub": EPUB,
    "html": HTML, "htm": HTML, "xhtml": HTML,
    "md": MARKDOWN, "markdown": MARKDOWN, "mdx": MARKDOWN,
    "rst": RST, "rest": RST,
    "csv": CSV, "tsv": TSV, "json": JSON, "geojson": JSON, "jsonl": JSON_LINES, "ndjson": JSON_LINES,
    "txt": TEXT, "text": TEXT, "log": TEXT, "adoc": TEXT, "org": TEXT, "tex": TEXT,
}  # fmt: skip
_SOURCE_EXTENSIONS = """
    py pyi pyx js mjs cjs jsx ts tsx java kt kts scala go rs c h cc cpp cxx hpp hh cs swift rb php pl pm lua r jl hs
    ml mli ex exs erl clj dart zig nim sh bash zsh fish ps1 sql proto graphql css scss less vue svelte xml xsd xsl
    yaml yml toml ini cfg conf properties mk cmake gradle tf diff patch
"""
_EXTENSIONS |= dict.fromkeys(_SOURCE_EXTENSIONS.split(), CODE)

# Names that tell without an extension.
_WHOLE_NAMES = dict.fromkeys(("dockerfile", "makefile"), CODE)

_DECLARED = {
    **dict.fromkeys((PDF, DOCX, PPTX, XLSX, EPUB, HTML, MARKDOWN, RST, CSV, TSV, JSON, JSON_LINES, CODE, TEXT)),
    "application/x-pdf": PDF,
    "application/xhtml+xml": HTML,
    "text/x-markdown": MARKDOWN,
    "text/prs.fallenstein.rst": RST,
    "application/csv": CSV,
    "text/json": JSON,
    "application/jsonl": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    **dict.fromkeys(
        (
            "application/xml", "application/yaml", "application/x-yaml", "application/toml", "application/sql",
            "application/javascript", "application/x-javascript", "application/ecmascript", "application/typescript",
            "application/x-sh", "application/x-python-code", "application/x-httpd-php", "application/graphql",
        ),
        CODE,
    ),
}  # fmt: skip

# Types that say nothing about the content: what an HTTP client sends when nobody told it better.
_UNTOLD = {"", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded", "*/*"}

# What starts a file that nothing here reads, by name.
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document, or one protected by a password"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"%!PS", "a PostScript document"),
)

_ZIPPED = ((b"word/document.xml", DOCX), (b"ppt/presentation.xml", PPTX), (b"xl/workbook.xml", XLSX))
_ZIP_KINDS = {DOCX: "Word document", PPTX: "presentation", XLSX: "workbook", EPUB: "EPUB book"}
# Possessive throughout: whoever gives back a comment to try a longer one takes 2 ** n steps for n comments.
_HTML_START = re.compile(
    rb"\s*+(?:(?><!--.{0,2000}?-->)\s*+)*+<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)


def media_type_of(content: bytes, name: str, declared: str = "") -> MediaType:
    """Decide what a document is.

    Binary kinds are known by their magic, whatever was declared. Otherwise the declared type counts (text/plain and the
    types that say nothing give way to the extension), then the extension, then a look at the first bytes.

    Raises:
        EmptyDocument: no bytes.
        UnsupportedMediaType: a kind nothing here reads.
        UnreadableDocument: declared or named as a binary kind, but its magic is missing.
    """
    if not content:
        raise EmptyDocument(f"{name}: the file is empty (0 bytes)")
    told, charset = _parse(declared)
    magic = _magic(content, name, told)
    if magic:
        return MediaType(magic)
    kind = _told(told, name) or type_by_name(name) or _by_look(content)
    if kind == PDF or kind in _ZIP_KINDS:
        raise UnreadableDocument(
            f"{name}: it is said to be a {_ZIP_KINDS.get(kind, 'PDF')}, but does not start like one"
        )
    return MediaType(kind, charset)


def problem_by_look(begin: bytes) -> str:
    """Why imports refuse a file whose name tells nothing, by the first few hundred bytes; "" where they may take it."""
    for start, kind in (*_FOREIGN, (b"PK\x03\x04", "a zip archive")):
        if begin.startswith(start):
            return f"{kind} cannot be imported"
    if b"\0" in begin and not begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return "it holds binary data, not text"
    return ""


def _parse(declared: str) -> tuple[str, str]:
    """The bare lower-case type and the charset parameter of a Content-Type value."""
    told, _, parameters = declared.partition(";")
    found = re.search(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", parameters, re.IGNORECASE)
    return told.strip().lower(), found[1].lower() if found else ""


def _magic(content: bytes, name: str, told: str) -> str:
    """The kind a file's own first bytes prove, or "" where they prove none."""
    # PDF readers accept the header anywhere in the first 1024 bytes (ISO 32000-1, annex H, note 13); a text may say so.
    if content[:64].lstrip(b"\xef\xbb\xbf \t\r\n\0").startswith(b"%PDF-"):
        return PDF
    if b"%PDF-" in content[:1024] and PDF in (told, type_by_name(name)):
        return PDF
    if content.startswith(b"PK\x03\x04"):
        if content[30:58] == b"mimetypeapplication/epub+zip":
            return EPUB
        for member, kind in _ZIPPED:
            if member in content:
                return kind
        if b"META-INF/container.xml" in content:
            return EPUB
        if type_by_name(name) in _ZIP_KINDS:
            raise UnreadableDocument(f"{name}: a zip archive, but not a valid {_ZIP_KINDS[type_by_name(name)]}")
        raise _unsupported(name, "a zip archive")
    for start, kind in _FOREIGN:
        if content.startswith(start):
            raise _unsupported(name, kind)
    return ""


def _told(told: str, name: str) -> str:
    """The kind a declared type stands for, or "" where it leaves the question open."""
    if told in _UNTOLD:
        return ""
    if told == TEXT:
        named = type_by_name(name)
        return named if named.startswith("text/") or named in (JSON, JSON_LINES) else TEXT
    if told in _DECLARED:
        return _DECLARED[told] or told
    if told.startswith("text/"):
        return CODE if told.startswith("text/x-") else TEXT
    if told.endswith("+json"):
        return JSON
    if told.endswith("+xml") and told != "image/svg+xml":
        return CODE
    raise _unsupported(name, told)


def type_by_name(name: str) -> str:
    """The media type a file's name tells, or "" where it tells none that imports know."""
    path = PurePosixPath(name)
    extension = path.suffix[1:].lower()
    return _EXTENSIONS.get(extension, "") if extension else _WHOLE_NAMES.get(path.name.lower(), "")


def _by_look(content: bytes) -> str:
    return HTML if _HTML_START.match(content[:4096]) else TEXT


def _unsupported(name: str, kind: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(f"{name}: {kind} cannot be imported; supported are {SUPPORTED}")
