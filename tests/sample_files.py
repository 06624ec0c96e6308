"""Small real files of every supported kind, made by hand: no binaries in the repository."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def zipped(members: Mapping[str, str | bytes], *, stored: Iterable[str] = ()) -> bytes:
    """A zip archive of these members, in their order; those in `stored` are not compressed."""
    buffer = io.BytesIO()
    uncompressed = set(stored)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            how = zipfile.ZIP_STORED if name in uncompressed else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, compress_type=how)
    return buffer.getvalue()


def _content_types(overrides: Mapping[str, str]) -> str:
    parts = "".join(f'<Override PartName="{part}" ContentType="{kind}"/>' for part, kind in overrides.items())
    return (
        f'{_XML}<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{parts}</Types>'
    )


def _relationships(targets: Sequence[tuple[str, str]]) -> str:
    links = "".join(
        f'<Relationship Id="rId{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f'{_XML}<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'


def docx_body(xml: str, *, prolog: str = _XML) -> bytes:
    """A Word document whose body is this WordprocessingML."""
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/>'
        f'<w:pPr><w:outlineLvl w:val="{n - 1}"/></w:pPr></w:style>'
        for n in (1, 2, 3)
    )
    return zipped(
        {
            "[Content_Types].xml": _content_types(
                {"/word/document.xml": f"{word}.document.main+xml", "/word/styles.xml": f"{word}.styles+xml"}
            ),
            "_rels/.rels": _relationships([("officeDocument", "word/document.xml")]),
            "word/_rels/document.xml.rels": _relationships([("styles", "styles.xml")]),
            "word/styles.xml": f'{_XML}<w:styles xmlns:w="{namespace}">{styles}</w:styles>',
            "word/document.xml": f'{prolog}<w:document xmlns:w="{namespace}"><w:body>{xml}</w:body></w:document>',
        }
    )


def docx(paragraphs: Sequence[tuple[int, str]], table: Sequence[Sequence[str]] = ()) -> bytes:
    """A Word document: (heading level or 0, text) a paragraph, then one table."""
    xml = []
    for level, text in paragraphs:
        style = f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""
        xml.append(f'<w:p>{style}<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>')
    if table:
        rows = "".join(
            "<w:tr>"
            + "".join(f"<w:tc><w:p><w:r><w:t>{escape(cell)}</w:t></w:r></w:p></w:tc>" for cell in row)
            + "</w:tr>"
            for row in table
        )
        xml.append(f"<w:tbl>{rows}</w:tbl>")
    return docx_body("".join(xml))


def pptx(slides: Sequence[tuple[str, str]]) -> bytes:
    """A presentation: (title, text) a slide."""
    kind = "application/vnd.openxmlformats-officedocument.presentationml"
    main = "http://schemas.openxmlformats.org/presentationml/2006/main"
    drawing = "http://schemas.openxmlformats.org/drawingml/2006/main"
    spaces = f'xmlns:p="{main}" xmlns:a="{drawing}" xmlns:r="{_OFFICE}"'

    def shape(number: int, text: str, placeholder: str) -> str:
        return (
            f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="s{number}"/><p:cNvSpPr/>'
            f'<p:nvPr><p:ph type="{placeholder}"/></p:nvPr></p:nvSpPr><p:spPr/>'
            f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{escape(text)}</a:t></a:r></a:p></p:txBody></p:sp>"
        )

    numbers = range(1, len(slides) + 1)
    members = {
        "[Content_Types].xml": _content_types(
            {
                "/ppt/presentation.xml": f"{kind}.presentation.main+xml",
                **{f"/ppt/slides/slide{n}.xml": f"{kind}.slide+xml" for n in numbers},
            }
        ),
        "_rels/.rels": _relationships([("officeDocument", "ppt/presentation.xml")]),
        "ppt/_rels/presentation.xml.rels": _relationships([("slide", f"slides/slide{n}.xml") for n in numbers]),
        "ppt/presentation.xml": f"{_XML}<p:presentation {spaces}><p:sldIdLst>"
        + "".join(f'<p:sldId id="{255 + n}" r:id="rId{n}"/>' for n in numbers)
        + "</p:sldIdLst></p:presentation>",
    }
    for n, (title, text) in zip(numbers, slides, strict=True):
        members[f"ppt/slides/slide{n}.xml"] = (
            f"{_XML}<p:sld {spaces}><p:cSld><p:spTree><p:nvGrpSpPr><p:cNvPr id='1' name=''/><p:cNvGrpSpPr/><p:nvPr/>"
            f"</p:nvGrpSpPr><p:grpSpPr/>{shape(2, title, 'title')}{shape(3, text, 'body')}</p:spTree></p:cSld></p:sld>"
        )
    return zipped(members)


def xlsx(sheets: Mapping[str, Sequence[Sequence[str | float]]]) -> bytes:
    """A workbook: rows of cells by sheet name."""
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    numbers = range(1, len(sheets) + 1)
    members = {
        "[Content_Types].xml": _content_types(
            {
                "/xl/workbook.xml": f"{kind}.sheet.main+xml",
                **{f"/xl/worksheets/sheet{n}.xml": f"{kind}.worksheet+xml" for n in numbers},
            }
        ),
        "_rels/.rels": _relationships([("officeDocument", "xl/workbook.xml")]),
        "xl/_rels/workbook.xml.rels": _relationships([("worksheet", f"worksheets/sheet{n}.xml") for n in numbers]),
        "xl/workbook.xml": f'{_XML}<workbook xmlns="{main}" xmlns:r="{_OFFICE}"><sheets>'
        + "".join(
            f'<sheet name="{escape(name)}" sheetId="{n}" r:id="rId{n}"/>'
            for n, name in zip(numbers, sheets, strict=True)
        )
        + "</sheets></workbook>",
    }

    def cell(reference: str, value: str | float) -> str:
        if isinstance(value, str):
            return f'<c r="{reference}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f'<c r="{reference}"><v>{value}</v></c>'

    for n, rows in zip(numbers, sheets.values(), strict=True):
        data = "".join(
            f'<row r="{r}">' + "".join(cell(f"{chr(64 + c)}{r}", value) for c, value in enumerate(row, 1)) + "</row>"
            for r, row in enumerate(rows, 1)
        )
        members[f"xl/worksheets/sheet{n}.xml"] = (
            f'{_XML}<worksheet xmlns="{main}"><sheetData>{data}</sheetData></worksheet>'
        )
    return zipped(members)


def epub(title: str, chapters: Sequence[tuple[str, str]]) -> bytes:
    """A book: (heading, text) a chapter."""
    numbers = range(1, len(chapters) + 1)
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers)
    spine = "".join(f'<itemref idref="c{n}"/>' for n in numbers)
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<?xml version="1.0"?><container version="1.0" '
        'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="OEBPS/content.opf" '
        'media-type="application/oebps-package+xml"/></rootfiles></container>',
        "OEBPS/content.opf": '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" '
        'unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">urn:test</dc:identifier><dc:title>{escape(title)}</dc:title>'
        f"<dc:language>en</dc:language></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
    }
    for n, (heading, text) in zip(numbers, chapters, strict=True):
        members[f"OEBPS/c{n}.xhtml"] = (
            f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>{escape(heading)}</title>'
            f"</head><body><h1>{escape(heading)}</h1><p>{escape(text)}</p></body></html>"
        )
    return zipped(members, stored=["mimetype"])


def pdf(pages: Sequence[str], *, trailer: str = "", title: str = "") -> bytes:
    """A PDF with one line of text for each line of each page; a page of "" has a drawing and no text layer."""
    bodies: dict[int, bytes] = {}
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    bodies[1] = b"<< /Type /Catalog /Pages 2 0 R >>"
    bodies[2] = f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode()
    bodies[3] = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    for n, text in enumerate(pages):
        bodies[4 + 2 * n] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        ).encode()
        bodies[5 + 2 * n] = _stream(_page_drawing(text))
    if title:
        number = max(bodies) + 1
        bodies[number] = f"<< /Title ({title}) >>".encode()
        trailer += f" /Info {number} 0 R"
    return pdf_file(bodies, trailer)


def _page_drawing(text: str) -> bytes:
    if not text:
        return b"0.5 g 100 100 300 300 re f"
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.splitlines()]
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    return f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode("cp1252")


def _stream(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)


def pdf_file(bodies: Mapping[int, bytes], trailer: str) -> bytes:
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number in sorted(bodies):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, bodies[number])
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += f"trailer\n<< /Size {len(offsets) + 1} /Root 1 0 R{trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def encrypted_pdf() -> bytes:
    """A PDF that asks for a password nobody has (standard security handler, revision 3)."""
    secret = "5a" * 32
    encrypt = f" /Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -3904 /O <{secret}> /U <{secret}> >>"
    identifier = "00" * 16
    return pdf(["cannot be read"], trailer=f"{encrypt} /ID [<{identifier}> <{identifier}>]")
