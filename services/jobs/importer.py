"""Takes requests to import documents: checks them whole, keeps their contents, and records one job for each."""

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias
from urllib.parse import urldefrag, urlsplit

from ragweave.names import document_id_from
from services.jobs.estimator import Candidate, Estimator
from services.jobs.job import (
    Assignment,
    DirectoryImport,
    DocumentSpec,
    Failure,
    Job,
    JobType,
    OnDuplicate,
    RowFormat,
    TableImport,
    new_job_id,
)
from services.jobs.ports import Collection, Files, Registry
from services.jobs.ports_content import BlobStore
from services.jobs.reading import Found
from services.jobs.ready import READY_TYPE, ReadyChunks
from services.jobs.submission import Submissions, estimated
from services.jobs.tables import MAX_METADATA_BYTES, Part, check_fields, columns_of, document, page
from services.mesh.errors import (
    DomainError,
    InvalidArgument,
    InvalidRow,
    PathNotAllowed,
    PathNotFound,
    QuotaExceeded,
    UploadNotFound,
    Violation,
)
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt

_ID_DIGITS = 32
# The pages of a collection are one source: FULL deletes those that are not listed any more.
_WEB = "urls"
# So are the rows of tables that have no path.
_ROWS = "rows"
_RESOURCE_EXHAUSTED = 8  # google.rpc.Code


@dataclass(frozen=True, slots=True)
class InlineDocument:
    """A document in the request itself; an empty id is made from the content, which `ready` stands in for."""

    spec: DocumentSpec
    content: bytes = field(repr=False)
    ready: ReadyChunks | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class InlineSource:
    documents: Sequence[InlineDocument]


@dataclass(frozen=True, slots=True)
class UploadSource:
    """Files stored before, by content hash."""

    documents: Sequence[DocumentSpec]


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A directory or a file under an allowed root; `wanted.path` is as the caller wrote it."""

    wanted: DirectoryImport


@dataclass(frozen=True, slots=True)
class UrlSource:
    """Pages on the web."""

    urls: Sequence[str]


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows of a table.

    Attributes:
        table: Without content_hash and columns, unless the table was uploaded.
        text: The table itself, where the request brought it.
        path: A file under an allowed root as the caller wrote it, where it is one.
    """

    table: TableImport
    text: str = field(default="", repr=False)
    path: str = ""


Source: TypeAlias = InlineSource | UploadSource | DirectorySource | UrlSource | RowSource


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import, and how.

    Attributes:
        field: Name of the source in the request, for errors.
        full: Documents of an earlier import of this source that it no longer has are deleted.
        key: Makes the call safe to repeat; None where the caller gave none.
        echo: The request, for the job to show; opaque here.
    """

    collection_id: str
    source: Source
    on_duplicate: OnDuplicate = OnDuplicate.SKIP
    full: bool = False
    validate_only: bool = False
    receipt: Receipt | None = None
    echo: bytes = b""


class Importer:
    """Makes import jobs. Whatever can be known to be wrong is refused here; what one document hides fails its item."""

    def __init__(
        self, submissions: Submissions, registry: Registry, blobs: BlobStore, files: Files, estimator: Estimator
    ) -> None:
        self._submissions = submissions
        self._registry = registry
        self._blobs = blobs
        self._files = files
        self._estimator = estimator

    async def import_documents(self, request: ImportRequest, who: Caller) -> Job:
        """The job, recorded and queued; with `validate_only` one that holds an estimate and is kept nowhere.

        Documents are held to the tenant's quota one by one, when they are written. An estimate that does not fit as a
        whole says so as the job's error.

        Raises:
            CollectionNotFound, CollectionDisabled: there is nothing to import into.
            InvalidArgument: a document comes twice, or is over a limit.
            PathNotAllowed: the path is not under an allowed root, or does not exist.
            UploadNotFound: the tenant has uploaded no such content.
            RequestIdReused: the request id stands for another request.
        """
        return await self._submissions.once(request.receipt, who, lambda: self._import(request, who))

    async def _import(self, request: ImportRequest, who: Caller) -> Job:
        collection = await self._submissions.collection(request.collection_id)
        assignment = Assignment(
            tenant=who.tenant,
            job_id=new_job_id(),
            subject=who.subject,
            type=JobType.IMPORT,
            collection_id=collection.id,
            collection_uid=collection.uid,
            on_duplicate=request.on_duplicate,
            full=request.full,
            request=request.echo,
        )
        match request.source:
            case InlineSource() as source:
                return await self._inline(source, assignment, request, collection)
            case UploadSource() as source:
                return await self._uploads(source, assignment, request, collection)
            case DirectorySource() as source:
                return await self._directory(source, assignment, request, collection)
            case UrlSource() as source:
                return await self._urls(source, assignment, request, collection)
            case RowSource() as source:
                return await self._rows(source, assignment, request, collection)

    async def _inline(
        self, source: InlineSource, job: Assignment, request: ImportRequest, collection: Collection
    ) -> Job:
        _refuse_full(request)
        documents = [
            _as_content(document, collection, f"inline.documents[{at}]") for at, document in enumerate(source.documents)
        ]
        specs = [_identified(document) for document in documents]
        _check(specs, "inline.documents")
        contents = [document.content for document in documents]
        if request.validate_only:
            return await self._estimated(job, collection, _known(specs, contents))
        for content in contents:
            await self._blobs.put(job.tenant, _whole(content))
        return await self._submissions.submit(job, specs, request.receipt)

    async def _uploads(
        self, source: UploadSource, job: Assignment, request: ImportRequest, collection: Collection
    ) -> Job:
        _refuse_full(request)
        specs = list(source.documents)
        _check(specs, "uploads.uploads")
        for at, spec in enumerate(specs):
            if not await self._blobs.keep(job.tenant, spec.content_hash):
                raise UploadNotFound(
                    f"uploads.uploads[{at}].content_hash: nothing with this hash was uploaded",
                    violations=[
                        Violation(f"uploads.uploads[{at}].content_hash", "nothing with this hash was uploaded")
                    ],
                )
        if request.validate_only:
            return await self._estimated(job, collection, _each(specs))
        return await self._submissions.submit(job, specs, request.receipt)

    async def _directory(
        self, source: DirectorySource, job: Assignment, request: ImportRequest, collection: Collection
    ) -> Job:
        _check_metadata(source.wanted.metadata, "directory.metadata")
        try:
            directory, file = await self._files.resolve(job.tenant, source.wanted)
        except (PathNotAllowed, PathNotFound) as error:
            raise _named(error, "directory.path") from None
        job = replace(job, directory=directory, source_key=f"directory:{directory.key(file)}")
        # A file is an item known beforehand; what it was before does not vanish with it.
        specs = [self._files.spec(directory, file)] if file else []
        if file:
            _refuse_full(request)
        if request.validate_only:
            found = _each([specs[0].within(directory)]) if file else listed(self._files, job.tenant, directory)
            return await self._estimated(job, collection, found)
        return await self._submissions.submit(job, specs, request.receipt)

    async def _urls(self, source: UrlSource, job: Assignment, request: ImportRequest, collection: Collection) -> Job:
        """Whether a URL may be asked, and what it answers, its item tells."""
        specs = _pages(source.urls)
        job = replace(job, web=True, source_key=_WEB)
        if request.validate_only:
            return await self._estimated(job, collection, _each(specs))
        return await self._submissions.submit(job, specs, request.receipt)

    async def _rows(self, source: RowSource, job: Assignment, request: ImportRequest, collection: Collection) -> Job:
        """The table is kept as it is now, so that each of its rows stays where it was found."""
        table, key = source.table, _ROWS
        content: bytes | None = None
        if source.path:
            content, table, key = await self._table_at(source.path, job.tenant, table)
        elif not table.content_hash:
            content = source.text.encode()
        elif not await self._blobs.keep(job.tenant, table.content_hash):
            told = "nothing with this hash was uploaded"
            raise UploadNotFound(f"rows.content_hash: {told}", violations=[Violation("rows.content_hash", told)])
        if content is not None:
            table = replace(table, content_hash=hashlib.sha256(content).hexdigest())
            part = partial(_slice, content)
        else:
            part = partial(self._blobs.part, job.tenant, table.content_hash)
        if table.format is RowFormat.CSV:
            try:
                table = replace(table, columns=await columns_of(part, table.delimiter))
            except InvalidRow as error:
                raise InvalidArgument.of("rows", f"its first row: {error.message}") from None
        check_fields(table)
        job = replace(job, table=table, source_key=key)
        if request.validate_only:
            return await self._estimated(job, collection, _rows_of(part, table))
        if content is not None:
            await self._blobs.put(job.tenant, _whole(content))
        return await self._submissions.submit(job, [], request.receipt)

    async def _table_at(self, path: str, tenant: str, table: TableImport) -> tuple[bytes, TableImport, str]:
        """A file's content, its table and its source key."""
        try:
            directory, file = await self._files.resolve(tenant, DirectoryImport("", path))
            if not file:
                raise PathNotAllowed(f"{path[:200]}: it is a directory; name a file")
            content = await self._files.read(tenant, directory, file)
        except (PathNotAllowed, PathNotFound) as error:
            raise _named(error, "rows.path") from None
        return content, replace(table, name=directory.spelt(file)), f"{_ROWS}:{directory.key(file)}"

    async def _estimated(self, job: Assignment, collection: Collection, found: AsyncIterator[Candidate]) -> Job:
        estimate, added = await self._estimator.estimate(job, collection, found)
        refused: Failure | None = None
        try:
            await self._registry.check_quota(added)
        except QuotaExceeded as error:  # what fits would be imported all the same, so this is told, not raised
            refused = Failure(_RESOURCE_EXHAUSTED, error.reason, error.message)
        return estimated(job, estimate, refused)


async def listed(files: Files, tenant: str, directory: DirectoryImport) -> AsyncIterator[Candidate]:
    """The documents that the files of a directory would be."""
    after: str | None = ""
    while after is not None:
        specs, after = await files.page(tenant, directory, after, 500)
        async for candidate in _each([spec.within(directory) for spec in specs]):
            yield candidate


def _as_content(document: InlineDocument, collection: Collection, field: str) -> InlineDocument:
    """Ready chunks packed, as any content is kept."""
    if document.ready is None:
        return document
    if document.spec.mime_type:
        raise InvalidArgument.of(f"{field}.document.mime_type", "is not for ready chunks")
    content = document.ready.of(collection, f"{field}.ready").packed()
    return InlineDocument(replace(document.spec, mime_type=READY_TYPE), content)


def _identified(document: InlineDocument) -> DocumentSpec:
    content_hash = hashlib.sha256(document.content).hexdigest()
    document_id = document.spec.document_id or content_hash[:_ID_DIGITS]
    return replace(document.spec, document_id=document_id, content_hash=content_hash)


def _check(specs: Sequence[DocumentSpec], field: str) -> None:
    """Each id once, all metadata within bounds; names the document at fault."""
    seen: dict[str, int] = {}
    for at, spec in enumerate(specs):
        if spec.document_id in seen:
            raise InvalidArgument.of(
                f"{field}[{at}].document_id", f"{spec.document_id} is the id of document {seen[spec.document_id]} too"
            )
        seen[spec.document_id] = at
        _check_metadata(spec.metadata, f"{field}[{at}].document.metadata")


def _pages(urls: Sequence[str]) -> list[DocumentSpec]:
    """A document for each page, named by its URL; a fragment is a place in a page, not a page of its own."""
    seen: dict[str, int] = {}
    specs = []
    for at, url in enumerate(urls):
        try:
            page, parts = urldefrag(url).url, urlsplit(url)
        except ValueError:
            page, parts = url, None
        if parts is not None and parts.netloc.rpartition("@")[1]:  # it would be shown with the item, and stored
            raise InvalidArgument.of(f"urls.urls[{at}]", "a URL with a user name or password in it is not taken")
        if page in seen:
            raise InvalidArgument.of(f"urls.urls[{at}]", f"is the page of urls.urls[{seen[page]}] too")
        seen[page] = at
        specs.append(DocumentSpec(document_id_from(page), source_uri=page))
    return specs


def _check_metadata(metadata: object, field: str) -> None:
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidArgument.of(field, f"{size} bytes as JSON are over the limit of {MAX_METADATA_BYTES}")


def _refuse_full(request: ImportRequest) -> None:
    if request.full:
        raise InvalidArgument.of("reconciliation_mode", "FULL needs a directory, URLs or rows as its source")


def _named(error: DomainError, field: str) -> PathNotAllowed:
    return PathNotAllowed(f"{field}: {error.message}", violations=[Violation(field, error.message)])


async def _slice(content: bytes, start: int, length: int) -> bytes:
    return content[start : start + length]


async def _known(specs: Sequence[DocumentSpec], contents: Sequence[bytes]) -> AsyncIterator[Candidate]:
    for spec, content in zip(specs, contents, strict=True):
        yield Candidate(spec, partial(_found, Found(spec, content)))


async def _found(found: Found) -> Found:
    return found


async def _row(part: Part, table: TableImport, spec: DocumentSpec) -> Found:
    return Found(*await document(part, table, spec))


async def _rows_of(part: Part, table: TableImport) -> AsyncIterator[Candidate]:
    after: str | None = ""
    while after is not None:
        specs, after = await page(part, table, after, 500)
        for spec in specs:
            if not spec.refused:
                yield Candidate(spec, partial(_row, part, table, spec))


async def _each(specs: Sequence[DocumentSpec]) -> AsyncIterator[Candidate]:
    for spec in specs:
        if not spec.refused:
            yield Candidate(spec)


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
