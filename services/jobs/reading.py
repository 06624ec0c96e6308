"""How an item's content is got, what the extractor is told of it, and which kept text answers for it."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import unquote

from services.jobs.expansion import Listing
from services.jobs.job import Assignment, DocumentSpec
from services.jobs.ports import Files
from services.jobs.ports_content import BlobStore, Extractor
from services.jobs.ports_web import Web
from services.jobs.ready import READY_TYPE, READY_VERSION
from services.jobs.tables import Part, document, page
from services.mesh.errors import InvalidRow, PathNotAllowed

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

    def listing(self, job: Assignment) -> Listing:
        """How the documents of a job that came without its items are found."""
        if job.table is not None:
            return partial(page, self._table(job), job.table)
        assert job.directory is not None
        return partial(self._files.page, job.tenant, job.directory)

    async def read(self, job: Assignment, spec: DocumentSpec) -> Found:
        """Raises what BlobStore.read, Files.read and Web.fetch raise, and what `refuse` and `tables.document` do."""
        refuse(job, spec)
        if job.table is not None:
            return Found(*await document(self._table(job), job.table, spec))
        if job.directory is not None and spec.path:
            return Found(spec, await self._files.read(job.tenant, job.directory, spec.path))
        if job.web:
            return await self._page(spec)
        return Found(spec, await self._blobs.read(job.tenant, spec.content_hash))

    def _table(self, job: Assignment) -> Part:
        assert job.table is not None
        return partial(self._blobs.part, job.tenant, job.table.content_hash)

    async def _page(self, spec: DocumentSpec) -> Found:
        answer = await self._web.fetch(spec.source_uri, max_bytes=self._max_bytes)
        told = answer.media_type if answer.media_type != _UNTOLD else ""
        return Found(replace(spec, mime_type=told, charset=answer.charset), answer.content)


def refuse(job: Assignment, spec: DocumentSpec) -> None:
    """Raises PathNotAllowed, of a row InvalidRow, for what the listing found cannot be imported."""
    if spec.refused:
        kind = InvalidRow if job.table is not None else PathNotAllowed
        raise kind(f"{spec.source_uri}: {spec.refused}")


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
    if spec.mime_type == READY_TYPE:
        return READY_VERSION
    return f"{extractor.version}|{media_type(spec)}|{PurePosixPath(file_name(spec)).suffix}"


def last_part(spec: DocumentSpec) -> str:
    """What to call a document without a title by: the last part of where it came from."""
    name = file_name(spec)
    return PurePosixPath(unquote(name) if name.startswith(_WEB) else name).name if spec.source_uri else ""
