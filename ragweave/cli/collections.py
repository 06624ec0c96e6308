"""Commands about the documents a collection has: sync, reprocess, purge."""

from typing import Annotated

import typer

from ragweave.cli.calls import watched
from ragweave.cli.console import command, connect, out

Collection = Annotated[str, typer.Argument(help="The collection.")]


@command()
def sync(
    collection: Collection,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Delete all that came from the directory where it holds nothing.")
    ] = False,
) -> None:
    """Bring a collection in line with the directory it is bound to. Ends with 1 unless it succeeded."""
    with connect() as client:
        watched(client, client.sync(collection, allow_empty=allow_empty).name)


@command()
def reprocess(
    collection: Collection,
    filter_: Annotated[
        str, typer.Option("--filter", "-f", help="AIP-160, such as 'mime_type = \"text/markdown\"'; all where empty.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Also documents that are as the collection says.")] = False,
) -> None:
    """Extract, cut and embed stored documents again, as their collection now says. Ends with 1 unless it succeeded."""
    with connect() as client:
        watched(client, client.reprocess(collection, filter_, force=force).name)


@command()
def purge(
    collection: Collection,
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'state = FAILED'; `*` is all.")],
    force: Annotated[bool, typer.Option("--force", help="Delete them; without it they are counted.")] = False,
) -> None:
    """Delete the documents that match a filter, or count them. Ends with 1 unless it succeeded."""
    with connect() as client:
        job = client.purge(collection, filter_, force=force)
        if force:
            watched(client, job.name)
            return
    out.print(f"{job.estimate.documents} documents match; --force deletes them")
    for name in job.estimate.sample:
        out.print(f"  {name}", markup=False, soft_wrap=True)
    if len(job.estimate.sample) < job.estimate.documents:
        out.print("  ...")
