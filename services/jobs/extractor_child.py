"""The process that meets untrusted documents, one at a time, under limits it sets itself.

Its socket is descriptor 0; a frame is two big-endian lengths, a JSON header and a body. Started by `adapters/xberg.py`;
imports nothing of the mesh, to stay small.
"""

import asyncio
import ctypes
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.jobs.plain_formats import Refused, csv_records, decode, html_title, json_lines, records, unreadable

if TYPE_CHECKING:
    import xberg

LENGTHS = struct.Struct(">II")
# Linux's prctl options (linux/prctl.h).
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
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
    )
    return (await xberg.extract(source, options)).results[0]


def _refusal(error: str, kind: str) -> Refused:
    if "password" in error or "encrypt" in error:
        return unreadable(f"the {kind} is protected by a password")
    if "security limit" in error or "zip bomb" in error:
        return unreadable(f"the {kind} unpacks to more than the extractor allows")
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


def confine(memory_bytes: int, parent: int) -> None:
    """Bound this process for good: memory, files, no core dumps, no new privileges, dead when its parent is."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))


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


def serve(peer: socket.socket, answer: Callable[[Mapping[str, Any], bytes], tuple[dict[str, Any], bytes]]) -> None:
    """Answer frames until the peer closes, or memory runs out: after that nothing here can be trusted."""
    with peer.makefile("rwb") as stream:
        while lengths := stream.read(LENGTHS.size):
            header_size, body_size = LENGTHS.unpack(lengths)
            header = json.loads(stream.read(header_size))
            allow_cpu(header["cpu_seconds"])
            try:
                reply, body = answer(header, stream.read(body_size))
            except MemoryError:
                reply, body = {"reason": "MEMORY", "message": ""}, b""
            packed = json.dumps(reply).encode()
            stream.write(LENGTHS.pack(len(packed), len(body)) + packed + body)
            stream.flush()
            if reply.get("reason") == "MEMORY":
                return


def main() -> None:
    memory_bytes, parent = map(int, sys.argv[1:3])
    confine(memory_bytes, parent)
    serve(socket.socket(fileno=0), answer)
    os._exit(0)  # xberg's own threads crash an orderly exit


if __name__ == "__main__":
    main()
