"""The process that meets untrusted documents, one at a time, under limits it sets itself.

Its socket is descriptor 0; a frame is two big-endian lengths, a JSON header and a body. Started by `adapters/xberg.py`;
imports nothing of the mesh, to stay small.
"""

import asyncio
import json
import mmap
import os
import re
import resource
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.jobs.confinement import confine
from services.jobs.plain_formats import Refused, csv_records, decode, html_title, json_lines, records, unreadable

if TYPE_CHECKING:
    import xberg

LENGTHS = struct.Struct(">II")
# What a packed document may unpack to, in whole and a part, how many times its size, and from how many files.
_MAX_UNPACKED_MIB = 500
_MAX_PART_MIB = 100
_MAX_RATIO = 100
_MAX_FILES = 10_000
# What xberg says, in lower case, when it refuses a document by a limit; and what we say. The first that fits counts.
_LIMITS = (
    (r"(ratio:|zip bomb)", f"a part of it unpacks to more than {_MAX_RATIO} times its size"),
    (r"total uncompressed size", f"it unpacks to more than {_MAX_UNPACKED_MIB} MiB"),
    (r"uncompressed size \d+ bytes exceeds", f"a part of it unpacks to more than {_MAX_PART_MIB} MiB"),
    (r"larger than its declared", "a part of it is larger than it declares"),
    (r"\d entries, |too many files", f"it holds more than {_MAX_FILES} files"),
    (r"security limit", "it is larger, or nested deeper, than the extractor allows"),
)
# Deeper HTML is cut off by the parser; far above this it overflows its stack.
_MAX_HTML_DEPTH = 300
_OFFICE = "application/vnd.openxmlformats-officedocument."
_KINDS = {
    "application/pdf": "PDF",
    f"{_OFFICE}wordprocessingml.document": "Word document",
    f"{_OFFICE}presentationml.presentation": "presentation",
    f"{_OFFICE}spreadsheetml.sheet": "workbook",
    "application/epub+zip": "EPUB book",
    "text/html": "HTML page",
}
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{~])")


@dataclass(slots=True)
class Extraction:
    """What the child answers: text, the syntax of its structure, and what else the format told."""

    text: str
    syntax: str
    title: str = ""
    pages: list[tuple[int, int, int, str]] = field(default_factory=list)
    metadata: dict[str, str | int] = field(default_factory=dict)


def extract(content: bytes, media_type: str, charset: str) -> Extraction:
    """The text of one document of a known media type.

    Raises:
        Refused: it gives none; why is in the reason and the message.
    """
    if media_type in _KINDS:
        return _parsed(content, media_type, charset)
    text = decode(content, charset)
    if media_type == "text/csv":
        return Extraction(csv_records(text), "records")
    if media_type == "text/tab-separated-values":
        return Extraction("\n".join(records(line.split("\t") for line in text.split("\n"))), "records")
    if media_type in ("application/json", "application/x-ndjson"):
        return Extraction(json_lines(text), "records")
    return Extraction(text, {"text/markdown": "markdown", "text/x-source": "code"}.get(media_type, "plain"))


def _parsed(content: bytes, media_type: str, charset: str) -> Extraction:
    """A document that needs a parser: its text as Markdown."""
    title = ""
    if media_type == "text/html":
        markup = decode(content, charset, markup=True)
        title = html_title(markup)
        content = markup.encode()
    try:
        document = asyncio.run(_run_xberg(content, media_type))
    except RuntimeError as error:  # xberg's one error class; the kind is only in its text, which may quote the document
        raise _refusal(str(error).lower(), _KINDS[media_type]) from None
    title = title or document.metadata.title or ""
    if media_type == "text/html":
        return Extraction(document.content, "markdown", title)
    if media_type.endswith("spreadsheetml.sheet"):
        return _workbook(document, title)
    text = document.content if media_type.endswith("epub+zip") else _unescaped(document.content)
    pages = _pages(document, text) if media_type.endswith(("pdf", "presentation")) else []
    metadata: dict[str, str | int] = {"page_count": len(pages)} if pages else {}
    for name, value in (
        ("author", ", ".join(document.metadata.authors or [])),
        ("language", document.metadata.language),
        ("created", document.metadata.created_at),
    ):
        if value:
            metadata[name] = value
    if not text.strip() and media_type == "application/pdf":
        raise Refused("NO_TEXT_FOUND", "the PDF has no text layer, as scans do; OCR is not configured")
    if media_type.endswith("presentation") and not text.strip("-\n "):  # between slides without text there are rules
        raise Refused("NO_TEXT_FOUND", "no slide of it holds text that can be read")
    return Extraction(text, "markdown", title, pages, metadata)


async def _run_xberg(content: bytes, media_type: str) -> "xberg.ExtractedDocument":
    import xberg  # 30 MB and 100 ms, so only when a document needs it

    source = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=content, mime_type=media_type)
    options = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        escape_markdown=False,
        output_format=xberg.OutputFormat("markdown"),
        pages=xberg.PageConfig(extract_pages=True),
        concurrency=xberg.ConcurrencyConfig(max_threads=1),
        html_options=xberg.ConversionOptions(extract_metadata=False, max_depth=_MAX_HTML_DEPTH),
        max_archive_depth=0,
        security_limits=xberg.SecurityLimits(
            max_archive_size=_MAX_UNPACKED_MIB << 20,
            max_content_size=_MAX_PART_MIB << 20,
            max_compression_ratio=_MAX_RATIO,
            max_files_in_archive=_MAX_FILES,
        ),
    )
    return (await xberg.extract(source, options)).results[0]


def _refusal(error: str, kind: str) -> Refused:
    if "password" in error or "encrypt" in error:
        return unreadable(f"the {kind} is protected by a password")
    for pattern, told in _LIMITS:
        if re.search(pattern, error):
            return unreadable(f"the {kind} is refused: {told}")
    return unreadable(f"corrupt, or not a valid {kind}")


def _workbook(document: "xberg.ExtractedDocument", title: str) -> Extraction:
    """Each sheet under its name as a heading, each row as a record."""
    text, pages = "", []
    for number, sheet in enumerate(document.pages or [], 1):
        name = sheet.sheet_name or f"Sheet {number}"
        body = "\n".join(line for table in sheet.tables for line in records(table.cells))
        start = len(text)
        if body:
            text += f"## {name}\n\n{body}\n\n"
        pages.append((number, start, len(text), name))
    return Extraction(text, "markdown", title, pages, {"sheet_count": len(pages)})


def _unescaped(markdown: str) -> str:
    """Without the backslashes before plain characters: people search for `<T>`, not for `\\<T\\>`."""
    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if place % 2 else _ESCAPED.sub(r"\1", part) for place, part in enumerate(fences))


def _pages(document: "xberg.ExtractedDocument", text: str) -> list[tuple[int, int, int, str]]:
    """Where each page lies in the text: found by its own content, since unescaping moved xberg's byte offsets."""
    pages, at = [], 0
    for number, page in enumerate(document.pages or [], 1):
        own = _unescaped(page.content).strip()
        found = text.find(own, at, at + len(own) + 4096) if own else -1
        start = found if found >= 0 else at
        at = start + len(own) if found >= 0 else at
        pages.append((number, start, at, ""))
    return pages


def allow_cpu(seconds: int) -> None:
    """Move the soft limit on processor time: from now on, so many seconds; past them SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, resource.RLIM_INFINITY))


def answer(header: Mapping[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """The reply to one request, refusals included."""
    try:
        found = extract(content, header["media_type"], header["charset"])
        if not found.text.strip():
            raise Refused("NO_TEXT_FOUND", "it holds no text")
        if len(found.text) > header["max_text_chars"]:
            raise Refused("DOCUMENT_TOO_LARGE", f"its text is longer than {header['max_text_chars']} characters")
    except Refused as refused:
        return {"reason": refused.reason, "message": refused.message}, b""
    # NUL and lone surrogates cannot be stored as text by most databases, nor sent as UTF-8.
    text = found.text.replace("\0", " ").encode("utf-8", "replace")
    return {"syntax": found.syntax, "title": found.title, "pages": found.pages, "metadata": found.metadata}, text


def serve(
    peer: socket.socket,
    answer: Callable[[Mapping[str, Any], bytes], tuple[dict[str, Any], bytes]],
    has_room: Callable[[], bool],
) -> None:
    """Answer frames until the peer closes, or memory runs out: after that nothing here can be trusted.

    A reply says `worn` where the document has left so little memory that the next one might fail for it.
    """
    with peer.makefile("rwb") as stream:
        while lengths := stream.read(LENGTHS.size):
            header_size, body_size = LENGTHS.unpack(lengths)
            header = json.loads(stream.read(header_size))
            allow_cpu(header["cpu_seconds"])
            try:
                reply, body = answer(header, stream.read(body_size))
            except MemoryError:
                reply, body = {"reason": "MEMORY", "message": ""}, b""
            reply["worn"] = reply.get("reason") == "MEMORY" or not has_room()
            packed = json.dumps(reply).encode()
            stream.write(LENGTHS.pack(len(packed), len(body)) + packed + body)
            stream.flush()
            if reply.get("reason") == "MEMORY":
                return


def room_for(size: int) -> bool:
    """Whether the address space that is left has room for so many bytes more."""
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True


def main() -> None:
    memory_bytes, parent, warm = map(int, sys.argv[1:4])
    confine(memory_bytes, parent)
    if warm:  # in place of one that has died: the next document is not to wait for this
        import xberg  # noqa: F401
    serve(socket.socket(fileno=0), answer, lambda: room_for(memory_bytes // 4))
    os._exit(0)  # xberg's own threads crash an orderly exit


if __name__ == "__main__":
    main()
