"""What the extractor is told of a document, and which kept text answers for it."""

from pathlib import PurePosixPath

from services.jobs.job import DocumentSpec
from services.jobs.ports_content import Extractor


def media_type(spec: DocumentSpec) -> str:
    """As declared, with the charset where it is known; text without a type is plain text."""
    declared = spec.mime_type or ("text/plain" if spec.charset else "")
    return f"{declared}; charset={spec.charset}" if spec.charset else declared


def text_version(extractor: Extractor, spec: DocumentSpec) -> str:
    """The extractor's version and what it is told: the same bytes, declared otherwise, may give another text."""
    name = spec.source_uri or spec.document_id
    return f"{extractor.version}|{media_type(spec)}|{PurePosixPath(name).suffix}"
