"""Commands that call the mesh: token, search, dirs, jobs, watch, events, retry, dead-letters, replay."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ragweave.cli.console import DEFAULT_TENANT, command, connect, err, fail, layout, out
from ragweave.client import Client
from ragweave.errors import RagweaveError
from ragweave.local.keys import sign_token
from ragweave.names import last_id
from ragweave.v1 import directory_pb2, directory_service_pb2, event_pb2, job_pb2, job_service_pb2, search_pb2

# What became of the documents, or queries, that a job succeeded with.
_DONE = {job_pb2.Job.REPROCESS: "made again", job_pb2.Job.PURGE: "deleted", job_pb2.Job.EVALUATE: "answered"}


@command()
def token(
    role: Annotated[str, typer.Option(help="reader, editor or admin.")] = "reader",
    tenant: Annotated[str, typer.Option(help="Whose data the token opens.")] = DEFAULT_TENANT,
    tier: Annotated[str, typer.Option(help="Rate tier: free or pro.")] = "pro",
    subject: Annotated[str, typer.Option(help="Who the token stands for.")] = "developer",
    group: Annotated[
        list[str] | None, typer.Option(help="Group of the subject, for document ACLs; repeatable.")
    ] = None,
    hours: Annotated[float, typer.Option(help="How long it is valid.", min=0.01, max=720)] = 12,
) -> None:
    """Print a token signed by the development key."""
    if role not in ("reader", "editor", "admin"):
        fail(f"role: {role!r} is none of reader, editor, admin")
    signed = sign_token(
        layout().keys,
        tenant=tenant,
        subject=subject,
        roles=[role],
        tier=tier,
        groups=group or (),
        lifetime_s=int(hours * 3600),
    )
    print(signed)


@command()
def search(
    query: Annotated[str, typer.Argument(help="The question, in words.")],
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection to search.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Hits to show.")] = 5,
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'metadata.year >= 2020'.")] = "",
    mode: Annotated[str, typer.Option(help="HYBRID, DENSE or SPARSE.")] = "HYBRID",
    rerank: Annotated[bool, typer.Option("--rerank", help="Reorder hits by the default reranking model.")] = False,
    rerank_model: Annotated[str, typer.Option("--rerank-model", help="The same by another model.")] = "",
    json: Annotated[bool, typer.Option("--json", help="The whole answer as JSON.")] = False,
) -> None:
    """Search a collection."""
    if mode.upper() not in ("HYBRID", "DENSE", "SPARSE"):
        fail(f"mode: {mode!r} is none of HYBRID, DENSE, SPARSE")
    with connect() as client:
        reranked = {"rerank": {"model": rerank_model}} if rerank or rerank_model else {}
        found = client.search(query, collection, top_k=top_k, filter=filter_, mode=mode.upper(), **reranked)
    if json:
        print(json_format.MessageToJson(found))
    else:
        show(found)


@command()
def dirs(
    path: Annotated[str, typer.Argument(help="A folder as listed; none lists the roots.")] = "",
    page_size: Annotated[int, typer.Option("-n", help="Entries to show.", min=1, max=100)] = 100,
) -> None:
    """List the folders of the mesh's machine that this tenant may import from, or what is in one."""
    with connect() as client:
        if not path:
            roots = client.directories.ListRoots(directory_service_pb2.ListRootsRequest(page_size=page_size))
            for root in roots.roots:
                out.print(f"{root.path:<24}  {root.problem or 'available'}", markup=False, soft_wrap=True)
            return
        request = directory_service_pb2.ListDirectoryEntriesRequest(path=path, page_size=page_size)
        listed = client.directories.ListDirectoryEntries(request)
    for entry in listed.entries:
        kind = directory_pb2.DirectoryEntry.Kind.Name(entry.kind)
        size = f"{entry.size_bytes:>12}" if kind == "FILE" else f"{kind.lower():>12}"
        out.print(f"{size}  {entry.path}  {entry.problem}".rstrip(), markup=False, soft_wrap=True)
    if len(listed.entries) < listed.total_size:
        out.print(f"... {listed.total_size} in all")


@command()
def jobs(
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'state = \"RUNNING\"'.")] = "",
    page_size: Annotated[int, typer.Option("-n", help="Jobs to show.", min=1, max=100)] = 20,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        listed = client.jobs.ListJobs(job_service_pb2.ListJobsRequest(filter=filter_, page_size=page_size))
    for job in listed.jobs:
        done = job.progress
        out.print(
            f"{job.name}  {job_pb2.Job.State.Name(job.state):<19}  {job.collection}  "
            f"{done.processed}/{done.total} done, {done.failed} failed, {done.skipped} unchanged"
        )
    if not listed.jobs:
        out.print("no jobs")


@command()
def watch(job: Annotated[str, typer.Argument(help="The job: `jobs/...` or its bare id.")]) -> None:
    """Follow a job to its end. Ends with 1 unless it succeeded."""
    with connect() as client:
        watched(client, _job_name(job))


@command()
def events(
    topics: Annotated[list[str] | None, typer.Argument(help="Such as ingestion.completed or 'document.*'.")] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Of which collection.")] = "",
    after: Annotated[int, typer.Option(help="The last sequence seen: 0 for all kept, -1 for new ones.", min=-1)] = -1,
    most: Annotated[int | None, typer.Option("-n", help="Events after which to end.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each as JSON on a line.")] = False,
) -> None:
    """Follow what happens in the tenant, until interrupted."""
    with connect() as client:
        watched = client.watch_events(topics or (), collection=collection, after_sequence=after)
        for event in islice(watched, most):
            told = json_format.MessageToJson(event, indent=None) if as_json else _told(event)
            out.print(told, markup=False, highlight=False, soft_wrap=True)


def _told(event: event_pb2.Event) -> str:
    """An event in a line."""
    job, item = event.job, event.item
    what = event.collection
    if event.HasField("job"):
        done = job.progress
        what = f"{what} {job.name} {job_pb2.Job.State.Name(job.state)}: {done.processed}/{done.total} done"
    elif event.HasField("item"):
        what = f"{item.document or what} {item.name}" + (f": {item.error.message}" if item.error.message else "")
    return f"{event.event_time.ToJsonString()}  {event.sequence}  {event.topic}  {what}"


@command()
def retry(job: Annotated[str, typer.Argument(help="The job: `jobs/...` or its bare id.")]) -> None:
    """Run what failed of a job again, or resume a cancelled one, and follow it. Ends with 1 unless it succeeded."""
    with connect() as client:
        watched(client, client.retry(_job_name(job)).name)


@command("dead-letters")
def dead_letters(
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'job = \"jobs/...\"'.")] = "",
    most: Annotated[int, typer.Option("-n", help="Entries to show.", min=1, max=100_000)] = 20,
) -> None:
    """List items that were given up, the newest first, each with its reason."""
    with connect() as client:
        listed = list(islice(client.dead_letters(filter_), most))
    for letter in listed:
        what = f"{letter.source_uri or letter.document}: {letter.error.message}"
        out.print(f"{letter.name}  {letter.attempts} attempts  {what}", markup=False, soft_wrap=True)
    if not listed:
        out.print("no dead letters")


@command()
def replay(
    names: Annotated[list[str] | None, typer.Argument(help="`deadLetters/...` or their bare ids.")] = None,
    filter_: Annotated[
        str, typer.Option("--filter", "-f", help="Instead of names: those that match; `*` is all there are.")
    ] = "",
) -> None:
    """Queue items that were given up again, once what was wrong with them is mended."""
    if bool(names) == bool(filter_):
        fail("give either dead letters or --filter; the filter '*' is all there are")
    with connect() as client:
        replayed = client.replay([f"deadLetters/{last_id(name)}" for name in names or ()], filter=filter_)
    out.print(f"{replayed.replayed} queued again", *replayed.jobs, soft_wrap=True)


def ensure_collection(client: Client, collection: str, **fields: Any) -> None:
    """Makes a collection unless it is there."""
    try:
        client.create_collection(last_id(collection), **fields)
    except RagweaveError as error:
        if error.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def follow(client: Client, job: str) -> job_pb2.Job:
    """Shows a job's progress until it has ended; returns it as it ended."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    )
    task = bar.add_task(job, total=None)
    line = Text("")
    with Live(Group(bar, line), console=err, refresh_per_second=8, transient=not err.is_terminal):
        for event in client.watch(job):
            if event.HasField("job"):
                done = event.job.progress
                state = job_pb2.Job.State.Name(event.job.state)
                total = done.total if done.total_final else None
                bar.update(task, completed=done.processed, total=total, description=f"{job} {state}")
                line.plain = f"  {done.chunks} chunks, {done.skipped} unchanged, {done.failed} failed"
    with_end = client.jobs.GetJob(job_service_pb2.GetJobRequest(name=job))
    done = with_end.progress
    became = _DONE.get(with_end.type, "imported")
    counts = [f"{done.succeeded} {became}", f"{done.failed} failed"]
    if with_end.type != job_pb2.Job.EVALUATE:
        counts[1:1] = [f"{done.skipped} unchanged"]
        counts.append(f"{done.chunks} chunks")
    out.print(f"{job} {job_pb2.Job.State.Name(with_end.state)}: {', '.join(counts)}", soft_wrap=True)
    return with_end  # type: ignore[no-any-return]


def _job_name(job: str) -> str:
    return job if job.startswith("jobs/") else f"jobs/{job}"


def watched(client: Client, job: str) -> None:
    """Follows a job to its end and tells what failed; ends the command with 1 unless it succeeded."""
    ended = follow(client, job)
    for item in failed_items(client, ended):
        tell_failed(item)
    if ended.state != job_pb2.Job.SUCCEEDED:
        raise typer.Exit(1)


def failed_items(client: Client, job: job_pb2.Job) -> Iterator[job_pb2.JobItem]:
    """The items of an ended job that failed."""
    token = ""
    while job.progress.failed:
        page = client.jobs.ListJobItems(
            job_service_pb2.ListJobItemsRequest(parent=job.name, filter='state = "FAILED"', page_token=token)
        )
        yield from page.job_items
        token = page.next_page_token
        if not token:
            return


def tell_failed(item: job_pb2.JobItem) -> None:
    err.print(
        f"[red]failed[/red] {escape(item.source_uri or item.document)}: {escape(item.error.message)}", soft_wrap=True
    )


def show(found: search_pb2.SearchResponse) -> None:
    """Prints hits for people: score, source, passage."""
    for rank, hit in enumerate(found.hits, 1):
        where = f"  {hit.section}" if hit.section else ""
        out.print(
            f"[bold]{rank}. {hit.score:.4f}[/bold]  [cyan]{hit.title or hit.document}[/cyan]{where}", soft_wrap=True
        )
        text = " ".join(hit.text.split())
        out.print(f"   {text[:240]}{'...' if len(text) > 240 else ''}", markup=False)
        out.print(f"   [dim]{hit.chunk}  {escape(hit.source_uri)}[/dim]", soft_wrap=True)
    if not found.hits:
        out.print("no hits")
    for stage in found.degraded_stages:
        err.print(f"[yellow]left out:[/yellow] {stage.stage}: {stage.reason}")
