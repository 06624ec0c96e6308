"""The index and what it holds."""

from typing import Final

from compose.observability.boards.parts import Board, Panel, quantile, quantiles, rate

VECTOR_STORE: Final = Board(
    "ragweave-vector-store",
    "Ragweave: vector store",
    "What is asked of the index and how long it takes, what is built, and how large the collections are.",
    {
        "Operations": [
            Panel(
                "Asked",
                "reqps",
                {"{{operation}}": rate("ragweave_vector_store_seconds_count", "operation")},
                stacked=True,
            ),
            Panel("Failed", "reqps", {"{{operation}}": rate("ragweave_vector_store_failures_total", "operation")}),
            Panel("Duration of a search", "s", quantiles("ragweave_vector_store_seconds", 'operation="search"')),
            Panel(
                "Duration, p95", "s", {"{{operation}}": quantile(0.95, "ragweave_vector_store_seconds", "operation")}
            ),
        ],
        "Builds (embedded engine)": [
            Panel(
                "Builds",
                "short",
                {"{{outcome}}": "sum by (outcome) (increase(ragweave_index_builds_total[$__rate_interval]))"},
                "A graph is built when enough chunks came or went.",
            ),
            Panel("A build takes, p95", "s", {"p95": quantile(0.95, "ragweave_index_build_seconds")}),
        ],
        "Collections": [
            Panel("Collections", "short", {"live": "max(ragweave_collections)"}),
            Panel(
                "Chunks",
                "short",
                {"{{collection}}": "max by (collection) (ragweave_collection_chunks)"},
                "The largest by their uid, the rest as `other`.",
                stacked=True,
            ),
            Panel(
                "Documents",
                "short",
                {"{{collection}}": "max by (collection) (ragweave_collection_documents)"},
                stacked=True,
            ),
            Panel(
                "Originals",
                "bytes",
                {"{{collection}}": "max by (collection) (ragweave_collection_bytes)"},
                stacked=True,
            ),
        ],
    },
)
