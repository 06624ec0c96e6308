"""Commands for the cache of answers: what it does, what it keeps, emptying and filling it."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ragweave.cli.console import app, command, connect, out
from ragweave.names import last_id
from ragweave.v1 import cache_pb2, search_pb2
from ragweave.v1 import cache_service_pb2 as pb

cache = typer.Typer(no_args_is_help=True, help="The cache of answers: stats, list, purge, warm.")
app.add_typer(cache, name="cache")

Collection = Annotated[str, typer.Argument(help="The collection; all of them without.")]


@command(group=cache)
def stats(collection: Collection = "") -> None:
    """Show how many searches were answered from the cache, by the process that is asked, since it began."""
    with connect() as client:
        told = client.cache.GetCacheStats(pb.GetCacheStatsRequest(collection=collection))
    out.print(f"{told.hits:,} hits, {told.misses:,} misses: {told.hit_rate:.1%}")
    for layer in told.layers:
        name = search_pb2.SearchResponse.Cache.Layer.Name(layer.layer).lower().replace("_", " ")
        out.print(f"  {name:<10} {layer.hits:>10,} hits")
    out.print(f"{told.refreshed:,} refreshed, {told.bypassed:,} bypassed")
    out.print(f"{told.entries:,} answers kept, {told.size_bytes:,} bytes; {told.evictions:,} made room")


@command("list", group=cache)
def list_(
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'hits > 10'.")] = "",
    order_by: Annotated[str, typer.Option(help="Such as 'hits desc'.")] = "",
    page_size: Annotated[int, typer.Option("-n", help="Answers to show.", min=1, max=100)] = 20,
) -> None:
    """List answers that the process keeps, the newest first."""
    request = pb.ListCacheEntriesRequest(filter=filter_, order_by=order_by, page_size=page_size)
    with connect() as client:
        listed = client.cache.ListCacheEntries(request)
    table = Table("QUESTION", "COLLECTIONS", "MODE", "AGE", "BYTES", "HITS", box=None, pad_edge=False)
    for entry in listed.entries:
        table.add_row(*_cells(entry))
    out.print(table)
    if len(listed.entries) < listed.total_size:
        out.print(f"... {listed.total_size} in all")


@command(group=cache)
def purge(collection: Collection = "") -> None:
    """Drop the answers and logged questions of a collection, or all of the tenant's, in every process and in Redis."""
    with connect() as client:
        dropped = client.cache.PurgeCache(pb.PurgeCacheRequest(collection=collection))
    out.print(
        f"dropped {dropped.process_entries} in the process, {dropped.shared_entries} in Redis, "
        f"{dropped.questions} questions",
        soft_wrap=True,
    )


@command(group=cache)
def warm(
    collection: Collection = "",
    limit: Annotated[int, typer.Option("-n", help="Searches to make at most.", min=1, max=1000)] = 100,
) -> None:
    """Make the most frequent searches again, so that the next who asks is answered from the cache."""
    with connect() as client:
        done = client.cache.WarmCache(pb.WarmCacheRequest(collection=collection, limit=limit))
    out.print(f"{done.warmed} made, {done.kept} were there, {done.left_out} left out")


def _cells(entry: cache_pb2.CacheEntry) -> list[str]:
    collections = ", ".join(last_id(each) for each in entry.collections)
    mode = search_pb2.SearchRequest.Mode.Name(entry.mode)
    age = f"{entry.age.ToMilliseconds() / 1e3:.1f} s"
    return [escape(entry.query), collections, mode, age, f"{entry.size_bytes:,}", f"{entry.hits:,}"]
