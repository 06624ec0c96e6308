"""Files made to cost whoever opens them: small on disk, each with what it must come to."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from tests import sample_files as samples

_UNREADABLE = "UNREADABLE_DOCUMENT"
_NO_TEXT = "NO_TEXT_FOUND"

_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 11))
_PROLOG = '<?xml version="1.0" encoding="UTF-8"?>\n'
LAUGHS = f'{_PROLOG}<!DOCTYPE d [<!ENTITY l0 "ha">{_LAUGHS}<!ENTITY e "&l10;">]>\n'
_SPREADSHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def external(uri: str) -> str:
    """The prolog of an XML file that asks for another one, as an entity and as its document type."""
    return f'{_PROLOG}<!DOCTYPE d SYSTEM "{uri}" [<!ENTITY e SYSTEM "{uri}"><!ENTITY % p SYSTEM "{uri}"> %p;]>\n'


def rezipped(archive: bytes, changed: Mapping[str, Callable[[bytes], bytes]]) -> bytes:
    """An archive with some of its members made anew from what they were."""
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    stored = ["mimetype"] if "mimetype" in members else []
    return samples.zipped({name: changed.get(name, bytes)(body) for name, body in members.items()}, stored=stored)


def with_prolog(prolog: str, text: bytes) -> Callable[[bytes], bytes]:
    """A member that begins otherwise, and refers to the entity `e` where it said `text`."""

    def change(body: bytes) -> bytes:
        assert text in body
        start = body.index(b"?>") + 2
        return prolog.encode() + body[start:].replace(text, b"before &e; after")

    return change


def with_text(text: bytes, most: bytes) -> Callable[[bytes], bytes]:
    return lambda body: body.replace(text, most)


# The member of each packed kind that holds its text, and a good document of that kind whose text is "victim".
PACKED: Mapping[str, tuple[str, bytes]] = {
    "docx": ("word/document.xml", samples.docx([(0, "victim")])),
    "pptx": ("ppt/slides/slide1.xml", samples.pptx([("Title", "victim")])),
    "xlsx": ("xl/worksheets/sheet1.xml", samples.xlsx({"S": [["Name"], ["victim"]]})),
    "epub": ("OEBPS/c1.xhtml", samples.epub("Book", [("One", "victim")])),
}


def packed(kind: str, change: Callable[[bytes], bytes]) -> bytes:
    """A document of a packed kind, the member with its text changed."""
    member, good = PACKED[kind]
    return rezipped(good, {member: change})


def declared(archive: bytes, size: int) -> bytes:
    """An archive whose headers say that every member unpacks to so many bytes."""
    out = bytearray(archive)
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = out.find(signature)
        while place >= 0:
            struct.pack_into("<I", out, place + at, size)
            place = out.find(signature, place + 4)
    return bytes(out)


def overlapping(archive: bytes, copies: int) -> bytes:
    """An archive whose directory lists its last member over and over: the same bytes, unpacked as many times."""
    end = archive.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", archive, end + 16)[0]
    last = archive.rindex(b"PK\x01\x02", 0, end)
    entries = bytearray(archive[start:end])
    name_size = struct.unpack_from("<H", archive, last + 28)[0]
    total = struct.unpack_from("<H", archive, end + 10)[0]
    for number in range(copies):
        entry = bytearray(archive[last:end])
        entry[46 : 46 + name_size] = f"{number:0{name_size}d}".encode()
        entries += entry
    tail = bytearray(archive[end:])
    struct.pack_into("<HHII", tail, 8, total + copies, total + copies, len(entries), start)
    return archive[:start] + bytes(entries) + bytes(tail)


def deflated(size: int, rounds: int = 1, content: bytes = b" ") -> bytes:
    """So many bytes of the same content, packed again and again."""
    packer = zlib.compressobj(9)
    piece = content * ((1 << 20) // len(content))
    out = b"".join(packer.compress(piece) for _ in range(size >> 20)) + packer.flush()
    for _ in range(rounds - 1):
        out = zlib.compress(out, 9)
    return out


def pdf(objects: Mapping[int, bytes], trailer: str = "") -> bytes:
    """A PDF of these objects; 1 is its catalog, 2 its page tree, each unless given."""
    bodies = {1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", **objects}
    return samples.pdf_file(bodies, trailer)


PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


def stream(content: bytes, entries: str = "") -> bytes:
    return f"<< /Length {len(content)} {entries} >>\nstream\n".encode() + content + b"\nendstream"


SHOWN = b"BT /F1 12 Tf 72 720 Td (victim) Tj ET"


def page_with(content: bytes, resources: str = "", **objects: bytes) -> bytes:
    """A PDF of one page that is drawn by `content`; further objects are called `o6`, `o7`, ..."""
    page = PAGE.replace(b"/Resources <<", b"/Resources << " + resources.encode())
    further = {int(name[1:]): body for name, body in objects.items()}
    return pdf({3: page, 4: content, 5: FONT, **further})


@dataclass(frozen=True)
class Hostile:
    """A file, and what becomes of it.

    Attributes:
        make: Its content.
        reason: Of the refusal; "" where it is harmless here, and imported.
        told: What the message says, or the text that is found.
        slow: It works until its time is up, however much of it there is.
    """

    name: str
    make: Callable[[], bytes] = field(repr=False)
    reason: str
    told: str
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def hostile_files(*, slow: bool = True) -> list[Hostile]:
    """All of them, or those that come to an end by themselves."""
    return [each for each in (*_packed_files(), *_pdfs(), *_texts()) if slow or not each.slow]


def _packed_files() -> Iterator[Hostile]:
    times, most = "unpacks to more than 100 times its size", "unpacks to more than 100 MiB"
    for kind, (_, good) in PACKED.items():
        yield Hostile(f"bomb.{kind}", partial(_bomb, kind), _UNREADABLE, times)
        yield Hostile(f"overlapping.{kind}", partial(_overlapping_bomb, kind), _UNREADABLE, "unpacks")
        yield Hostile(
            f"declared.{kind}", partial(declared, good, 2**31), _UNREADABLE, most if kind == "docx" else times
        )
        if kind in ("docx", "epub"):
            yield Hostile(
                f"lying.{kind}", partial(_lying_bomb, kind), _UNREADABLE, "a part of it is larger than it declares"
            )
        yield Hostile(f"crowd.{kind}", partial(_crowd, good), _UNREADABLE, "holds more than 10000 files")
        yield Hostile(f"deep.{kind}", partial(_deep, kind, 100_000), _UNREADABLE, times)
        for name, prolog in (("laughs", LAUGHS), ("external", external("file:///etc/passwd"))):
            make = partial(packed, kind, with_prolog(prolog, b"victim"))
            if kind in ("docx", "epub"):
                yield Hostile(f"{name}.{kind}", make, "", "before")
            else:  # nothing is left of its only text
                yield Hostile(f"{name}.{kind}", make, _NO_TEXT, "text")
    outer = inner = samples.docx([(0, "outer")])
    for _ in range(8):
        inner = _with_member(outer, "word/embeddings/inner.docx", inner)
    yield Hostile("nested.docx", lambda: inner, "", "outer")
    yield Hostile(
        "bomb.zip", lambda: samples.zipped({"a.txt": b"a" * 8_000_000}), "UNSUPPORTED_MEDIA_TYPE", "zip archive"
    )


def _pdfs() -> Iterator[Hostile]:
    corrupt = "corrupt, or not a valid PDF"
    yield Hostile(
        "page-loop.pdf",
        lambda: pdf({2: _page_tree("2 0 R 3 0 R"), 3: PAGE, 4: stream(SHOWN), 5: FONT}),
        _UNREADABLE,
        corrupt,
    )
    yield Hostile("page-doubling.pdf", partial(_doubling_pages, 40), _UNREADABLE, corrupt)
    yield Hostile("page-count.pdf", partial(pdf, {2: _page_tree("3 0 R", 2**31 - 1), **_one_page()}), "", "victim")
    yield Hostile("forms-doubling.pdf", partial(_laughing_forms, 12), _UNREADABLE, "takes longer than", slow=True)
    looping = stream(b"/F Do " * 10, _FORM + _resources(6))
    yield Hostile(
        "form-loop.pdf",
        partial(page_with, stream(SHOWN + b" /F Do"), "/XObject << /F 6 0 R >>", o6=looping),
        "",
        "victim",
    )
    yield Hostile("object-streams-loop.pdf", partial(page_with, stream(SHOWN), o6=_LOOPING_STREAM), "", "victim")
    yield Hostile("trailer-loop.pdf", _looping_trailer, "", "victim")
    yield Hostile(
        "length-loop.pdf", partial(page_with, b"<< /Length 4 0 R >>\nstream\n" + SHOWN + b"\nendstream"), "", "victim"
    )
    yield Hostile(
        "length.pdf", partial(page_with, b"<< /Length 2147483648 >>\nstream\n" + SHOWN + b"\nendstream"), "", "victim"
    )
    yield Hostile("size.pdf", lambda: samples.pdf(["victim"]).replace(b"/Size ", b"/Size 2147483647 % "), "", "victim")
    yield Hostile(
        "bomb.pdf",
        lambda: page_with(stream(deflated(100 << 20, 2), "/Filter [/FlateDecode /FlateDecode]")),
        _NO_TEXT,
        "no text layer",
    )
    yield Hostile(
        "image.pdf",
        lambda: page_with(stream(SHOWN + b" /I Do"), "/XObject << /I 6 0 R >>", o6=stream(deflated(2**20), _IMAGE)),
        "",
        "victim",
    )
    yield Hostile("deep.pdf", partial(page_with, stream(SHOWN), o6=b"[" * 300_000 + b"]" * 300_000), "", "victim")
    yield Hostile("deep-drawing.pdf", partial(page_with, stream(b"q " * 100_000 + SHOWN)), "", "victim")


def _texts() -> Iterator[Hostile]:
    def text(name: str, content: bytes, reason: str, told: str, *, slow: bool = False) -> Hostile:
        return Hostile(name, lambda: content, reason, told, slow)

    memory = "MiB of memory"
    yield text("deep.json", b'{"a":' * 300_000, _UNREADABLE, "nested too deep")
    yield text("keys.json", b'{"' + b"k" * 100_000 + b'":[' + b"1," * 100_000 + b"1]}", _UNREADABLE, memory)
    yield text("line.json", b'"' + b"a" * 20_000_001 + b'"', "DOCUMENT_TOO_LARGE", "longer than 20000000 characters")
    yield text("columns.csv", b"k" * 100_000 + b",b\n" + b"1,2\n" * 100_000, _UNREADABLE, memory)
    yield text("open-quote.csv", b'"' + b'a,""' * 5000, "", "a,")
    yield text("quotes.csv", b"\n'" * 8192, "", "'")
    yield text("line.txt", b"a" * 20_000_001, "DOCUMENT_TOO_LARGE", "longer than 20000000 characters")
    yield text("blank.txt", b" " * 20_000_000, _NO_TEXT, "it holds no text")
    yield text("comments.txt", b"<!---->" * 600 + b"victim", "", "victim")
    yield text("comments.html", b"<!---->" * 600 + b"victim", "", "victim")
    yield text("titles.html", b"<html>" + b"<title>" * 9000, _NO_TEXT, "it holds no text")
    yield text("deep.html", b"<div>" * 300_000 + b"victim", _NO_TEXT, "it holds no text")
    yield text("formatting.html", b"<b><table><a>" * 300_000 + b"victim", _UNREADABLE, "takes longer than", slow=True)
    yield text("spans.html", b"<table>" + b"<tr><td colspan=99999999 rowspan=99999999>x" * 1000, _UNREADABLE, memory)
    yield text("attributes.html", b"<p " + b"a=1 " * 1_000_000 + b">victim", "", "victim")
    yield text("brackets.md", b"# " + b"[" * 30_000, "", "[")
    yield text("surrogates.txt", b"\xed\xa0\x80" * 100, _UNREADABLE, "encoding cannot be told")
    yield text("half.txt", b"\xff\xfe" + b"a\x00\x00\xd8" * 100, _UNREADABLE, "not valid UTF-16")
    yield text("controls.txt", b"a\x01" * 100, "UNSUPPORTED_MEDIA_TYPE", "binary data")
    mail = b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\n"
    yield text("mail-in-mail.eml", mail * 300, "", "multipart")  # which is text here, and never unpacked
    yield text("laughs.xml", LAUGHS.encode() + b"<d>&e;</d>", "", "&e;")  # so is XML: its source


def _bomb(kind: str) -> bytes:
    return packed(kind, with_text(b"victim", b"a" * 8_000_000))


def _overlapping_bomb(kind: str) -> bytes:
    return overlapping(_bomb(kind), 3000)


def _lying_bomb(kind: str) -> bytes:
    return declared(_bomb(kind), 10)


def _with_member(archive: bytes, name: str, content: bytes) -> bytes:
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as whole:
        whole.writestr(name, content)
    return out.getvalue()


def _crowd(archive: bytes) -> bytes:
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as whole:
        for number in range(10_001):
            whole.writestr(str(number), b"")
    return out.getvalue()


def _deep(kind: str, levels: int) -> bytes:
    """XML elements within one another, where the text was."""
    return packed(kind, with_text(b"victim", b"<w>" * levels + b"victim" + b"</w>" * levels))


_FORM = "/Type /XObject /Subtype /Form /BBox [0 0 9 9]"
_IMAGE = (
    "/Type /XObject /Subtype /Image /Width 65535 /Height 65535 /ColorSpace /DeviceRGB /BitsPerComponent 8 "
    "/Filter /FlateDecode"
)
_LOOPING_STREAM = stream(b"6 0 << >>", "/Type /ObjStm /N 1 /First 4 /Extends 6 0 R")


def _one_page() -> dict[int, bytes]:
    return {3: PAGE, 4: stream(SHOWN), 5: FONT}


def _page_tree(kids: str, count: int = 2) -> bytes:
    return f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode()


def _resources(form: int) -> str:
    return f" /Resources << /XObject << /F {form} 0 R >> >>"


def _doubling_pages(levels: int) -> bytes:
    """Each node of the page tree names the next one twice: 2 ** levels pages."""
    nodes = {2 + n: _page_tree(f"{3 + n} 0 R {3 + n} 0 R") for n in range(levels)}
    last = 2 + levels
    page = PAGE.replace(b"4 0 R", b"%d 0 R" % (last + 1))
    return pdf({**nodes, last: page, last + 1: stream(SHOWN), last + 2: FONT})


def _laughing_forms(levels: int) -> bytes:
    """Each form draws the next one ten times: 10 ** levels drawings."""
    forms = {
        f"o{6 + n}": stream(b"/F Do " * 10 if n < levels else SHOWN, _FORM + _resources(7 + n))
        for n in range(levels + 1)
    }
    return page_with(stream(b"/F Do " * 10), "/XObject << /F 6 0 R >>", **forms)


def _looping_trailer() -> bytes:
    """Its table of objects says that the one before it is itself."""
    good = samples.pdf(["victim"])
    start = good.rindex(b"startxref\n") + len(b"startxref\n")
    at = good[start : good.index(b"%%EOF", start)].decode().strip()
    return samples.pdf(["victim"], trailer=f" /Prev {at}")
