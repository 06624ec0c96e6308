"""How an item's content is got, what the extractor is told of it, and which kept text answers for it."""

from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from services.jobs.job import Assignment, DocumentSpec
from services.jobs.ports import Files
from services.jobs.ports_content import BlobStore, Extractor
from services.jobs.ports_web import Web
from services.mesh.errors import PathNotAllowed

_WEB = ("http://", "https://")
# What servers say of files they know nothing about.
_UNTOLD = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Found:
    """A document's content, and its spec with what only the content's place could tell."""

    spec: DocumentSpec
    content: bytes = field(repr=False)


class Reader:
    """Gets the content of documents from wherever their job has them.

    Args:
        max_bytes: Larger pages are refused while they are read.
    """

    def __init__(self, blobs: BlobStore, files: Files, web: Web, *, max_bytes: int) -> None:
        self._blobs = blobs
        self._files = files
        self._web = web
        self._max_bytes = max_bytes

    async def read(self, job: Assignment, spec: DocumentSpec) -> Found:
        """Raises what BlobStore.read, Files.read and Web.fetch raise; PathNotAllowed for what the listing refused."""
        if spec.refused:
            raise PathNotAllowed(f"{spec.source_uri}: {spec.refused}")
        if job.directory is not None and spec.path:
            return Found(spec, await self._files.read(job.tenant, job.directory, spec.path))
        if job.web:
            return await self._page(spec)
        return Found(spec, await self._blobs.read(job.tenant, spec.content_hash))

    async def _page(self, spec: DocumentSpec) -> Found:
        page = await self._web.fetch(spec.source_uri, max_bytes=self._max_bytes)
        told = page.media_type if page.media_type != _UNTOLD else ""
        return Found(replace(spec, mime_type=told, charset=page.charset), page.content)


def media_type(spec: DocumentSpec) -> str:
    """As declared, with the charset where it is known; text without a type is plain text."""
    declared = spec.mime_type or ("text/plain" if spec.charset else "")
    return f"{declared}; charset={spec.charset}" if spec.charset else declared


def file_name(spec: DocumentSpec) -> str:
    """What tells a document's type where nothing better does, and names it in errors; of a URL, without its query."""
    name = spec.source_uri or spec.document_id
    return name.partition("?")[0].partition("#")[0] if name.startswith(_WEB) else name


def text_version(extractor: Extractor, spec: DocumentSpec) -> str:
    """The extractor's version and what it is told: the same bytes, declared otherwise, may give another text."""
    return f"{extractor.version}|{media_type(spec)}|{PurePosixPath(file_name(spec)).suffix}"


def last_part(spec: DocumentSpec) -> str:
    """What to call a document without a title by: the last part of where it came from."""
    name = file_name(spec)
    return PurePosixPath(unquote(name) if name.startswith(_WEB) else name).name if spec.source_uri else ""
