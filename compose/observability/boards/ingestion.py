"""Imports, from the queue to the webhook."""

from typing import Final

from compose.observability.boards.parts import Board, Panel, quantile, rate

INGESTION: Final = Board(
    "ragweave-ingestion",
    "Ragweave: ingestion",
    "What is to be imported, who works on it, how it ends, and what is told to webhooks.",
    {
        "Work": [
            Panel(
                "Items by what became of them",
                "short",
                {"{{outcome}}": rate("ragweave_items_total", "outcome")},
                "A second.",
                stacked=True,
            ),
            Panel(
                "Items left to do",
                "short",
                {"{{state}}": "max by (state) (ragweave_queue_items)"},
                "Waiting, leased by workers, delayed until their next attempt.",
                stacked=True,
            ),
            Panel("Oldest of them", "s", {"queued since": "max(ragweave_queue_oldest_seconds)"}),
            Panel(
                "Dead letters",
                "short",
                {"kept": "max(ragweave_dead_letters)"},
                "Items that failed for good. `ragweave call JobService/ListDeadLetters` names them.",
            ),
        ],
        "Workers": [
            Panel("Leases", "short", {"{{instance}}": "ragweave_leases"}, stacked=True),
            Panel("Oldest lease", "s", {"{{instance}}": "ragweave_lease_oldest_seconds"}, limit=1800),
            Panel(
                "Leases that ran out",
                "short",
                {
                    "not taken over": "max(ragweave_queue_late_leases)",
                    "lost a second, {{instance}}": rate("ragweave_leases_lost_total", "instance"),
                },
            ),
            Panel("Silence of their holders", "s", {"longest": "max(ragweave_queue_silence_seconds)"}),
        ],
        "Documents": [
            Panel("Stages of an item, p95", "s", {"{{stage}}": quantile(0.95, "ragweave_item_stage_seconds", "stage")}),
            Panel(
                "Time by stage",
                "s",
                {"{{stage}}": rate("ragweave_item_stage_seconds_sum", "stage")},
                "Seconds of a stage in a second.",
                stacked=True,
            ),
            Panel("Chunks written", "short", {"a second": rate("ragweave_item_chunks_total")}),
            Panel("Originals", "Bps", {"bytes": rate("ragweave_item_bytes_total")}),
        ],
        "Webhooks": [
            Panel(
                "Attempts to deliver",
                "short",
                {"{{outcome}}": rate("ragweave_webhook_deliveries_total", "outcome")},
                "A second.",
                stacked=True,
            ),
            Panel("Deliveries that wait", "short", {"waiting": "max(ragweave_webhook_deliveries_waiting)"}),
            Panel("Next one is late by", "s", {"late": "max(ragweave_webhook_overdue_seconds)"}),
            Panel(
                "Webhooks disabled", "short", {"within an hour": "sum(increase(ragweave_webhooks_disabled_total[1h]))"}
            ),
        ],
    },
)
