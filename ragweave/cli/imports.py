"""The command that imports: files and folders of this machine, pages of the web, rows of tables."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ragweave.cli.calls import ensure_collection, failed_items, follow, tell_failed
from ragweave.cli.console import command, connect, fail
from ragweave.client import Client
from ragweave.names import collection_name, document_id_from
from ragweave.v1 import job_service_pb2

# Files of one import request: as many as fit into this, so that a request stays far below the edge's limit.
_BATCH_BYTES = 4 * 2**20
_BATCH_FILES = 200
# What the contract takes in one request.
_MOST_URLS = 1000
_MOST_ROW_BYTES = 8 * 2**20
_WEB = ("http://", "https://")

_Import = job_service_pb2.ImportDocumentsRequest
_ROW_FORMATS = {".csv": _Import.RowSource.CSV, ".jsonl": _Import.RowSource.JSONL, ".ndjson": _Import.RowSource.JSONL}


@command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(help="A file or a folder on this machine; or URLs of pages.")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="Made where it does not exist.")],
    glob: Annotated[str, typer.Option(help="Files of the folder to take.")] = "**/*",
    rows: Annotated[bool, typer.Option("--rows", help="Each row of the JSONL or CSV file is a document.")] = False,
    id_field: Annotated[str, typer.Option(help="Field of the rows that makes the document's id.")] = "",
    title_field: Annotated[str, typer.Option(help="Field that makes the title.")] = "",
    uri_field: Annotated[str, typer.Option(help="Field that makes the source URI.")] = "",
    text_field: Annotated[
        list[str] | None, typer.Option(help="Field that makes the text; repeatable. Every field where none is given.")
    ] = None,
    metadata_field: Annotated[
        list[str] | None, typer.Option(help="Field to keep as metadata; repeatable. What is left where none is given.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="What separates the fields of CSV.")] = "",
    full: Annotated[
        bool, typer.Option("--full", help="Delete what earlier imports of URLs, or rows, had more.")
    ] = False,
) -> None:
    """Import files, whose bytes are sent, so that the mesh need not see this machine's folders; pages; or rows."""
    urls = [source for source in sources if source.startswith(_WEB)]
    if urls and (len(urls) < len(sources) or rows):
        fail("import either URLs, or one file or folder")
    mapping = _Import.RowSource.FieldMapping(
        id_field=id_field,
        title_field=title_field,
        source_uri_field=uri_field,
        text_fields=text_field or (),
        metadata_fields=metadata_field or (),
    )
    if not rows and (delimiter or mapping.ByteSize()):
        fail("fields and delimiters are those of rows: add --rows")
    mode = _Import.FULL if full else _Import.INCREMENTAL
    if urls:
        if full and len(urls) > _MOST_URLS:
            fail(f"--full takes at most {_MOST_URLS} URLs: what is not among them goes")
        parts = [urls[at : at + _MOST_URLS] for at in range(0, len(urls), _MOST_URLS)]
        requests = [_Import(urls=_Import.UrlSource(urls=part), reconciliation_mode=mode) for part in parts]
    elif len(sources) > 1:
        fail("import one file or folder at a time")
    elif rows:
        source = _rows(Path(sources[0]), mapping, delimiter)
        requests = [_Import(rows=source, reconciliation_mode=mode)]
    elif full:
        fail("--full is for URLs and rows")
    else:
        _import(collection, _sending_files(Path(sources[0]), glob))
        return
    _import(collection, [_sending(request) for request in requests])


_Send = Callable[[Client, str], str]


def _import(collection: str, sends: list[_Send]) -> None:
    """Queues all of it, follows the jobs, and tells what failed."""
    with connect() as client:
        ensure_collection(client, collection)
        jobs = [send(client, collection) for send in sends]
        ended = [follow(client, job) for job in jobs]
        failed = [item for job in ended for item in failed_items(client, job)]
    for item in failed:
        tell_failed(item)
    if failed:
        raise typer.Exit(1)


def _sending(request: _Import) -> _Send:
    def send(client: Client, collection: str) -> str:
        request.parent = collection_name(collection)
        name: str = client.jobs.ImportDocuments(request).name
        return name

    return send


def _rows(path: Path, mapping: _Import.RowSource.FieldMapping, delimiter: str) -> _Import.RowSource:
    row_format = _ROW_FORMATS.get(path.suffix.lower())
    if row_format is None:
        fail(f"{path}: rows are of a file named {', '.join(_ROW_FORMATS)}")
    if not path.is_file():
        fail(f"{path}: no such file")
    if path.stat().st_size > _MOST_ROW_BYTES:
        fail(f"{path}: over {_MOST_ROW_BYTES >> 20} MiB; split it, or call ImportDocuments with its path under a root")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        fail(f"{path}: is not UTF-8")
    return _Import.RowSource(format=row_format, text=text, fields=mapping, delimiter=delimiter)


def _sending_files(path: Path, glob: str) -> list[_Send]:
    if not path.exists():
        fail(f"{path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    files = sorted(p for p in path.glob(glob) if p.is_file() and not _hidden(p, root)) if path.is_dir() else [path]
    if not files:
        fail(f"{path}: no files match {glob!r}")
    return [_sending_batch(root, batch) for batch in _batches(files)]


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _batches(files: list[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in files:
        length = path.stat().st_size
        if batch and (size + length > _BATCH_BYTES or len(batch) == _BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += length
    yield batch


def _sending_batch(root: Path, batch: list[Path]) -> _Send:
    """Reads the files when they are sent. One too large for a batch is streamed on its own."""

    def send(client: Client, collection: str) -> str:
        relative = [path.relative_to(root).as_posix() for path in batch]
        ids = [document_id_from(name) for name in relative]
        if len(batch) == 1 and batch[0].stat().st_size > _BATCH_BYTES:
            return client.upload(collection, batch[0].name, batch[0].read_bytes(), document_id=ids[0]).name
        request = _Import()
        for path, name, document_id in zip(batch, relative, ids, strict=True):
            document = request.inline.documents.add(document_id=document_id, data=path.read_bytes())
            document.document.source_uri = name
        return _sending(request)(client, collection)

    return send
