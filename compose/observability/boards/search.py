"""Searches, stage by stage, and the models and caches they use."""

from typing import Final

from compose.observability.boards.parts import Board, Panel, quantile, quantiles, rate, ratio

SEARCH: Final = Board(
    "ragweave-search",
    "Ragweave: search",
    "How many searches there are, how long their stages take, which are left out, and what the caches bring.",
    {
        "Searches": [
            Panel(
                "Searches", "reqps", {"searches": rate("ragweave_search_stage_seconds_count", where='stage="total"')}
            ),
            Panel("Duration", "s", quantiles("ragweave_search_stage_seconds", 'stage="total"'), limit=0.5),
            Panel("Stages, p95", "s", {"{{stage}}": quantile(0.95, "ragweave_search_stage_seconds", "stage")}),
            Panel(
                "Time by stage",
                "s",
                {"{{stage}}": rate("ragweave_search_stage_seconds_sum", "stage", 'stage!="total"')},
                "Seconds of a stage in a second: which of them all searches together wait for.",
                stacked=True,
            ),
            Panel(
                "Stages left out",
                "reqps",
                {"{{stage}}": rate("ragweave_search_degraded_total", "stage")},
                "Answers are worse without, but they come.",
            ),
        ],
        "Answers given again": [
            Panel(
                "What the cache did", "reqps", {"{{event}}": rate("ragweave_result_cache_total", "event")}, stacked=True
            ),
            Panel(
                "Hit rate",
                "percentunit",
                {
                    "hits": ratio(
                        rate("ragweave_result_cache_total", where='event=~"process|shared|in_flight"'),
                        rate("ragweave_result_cache_total", where='event!="evicted"'),
                    )
                },
            ),
            Panel("Size in process", "bytes", {"{{instance}}": "ragweave_result_cache_bytes"}),
        ],
        "Embedding": [
            Panel("Tokens", "short", {"{{model}}": rate("ragweave_model_tokens_total", "model")}, "A second."),
            Panel(
                "Texts a batch",
                "short",
                {
                    "mean, {{model}}": ratio(
                        rate("ragweave_model_batch_texts_sum", "model"),
                        rate("ragweave_model_batch_texts_count", "model"),
                    ),
                    "p99, {{model}}": quantile(0.99, "ragweave_model_batch_texts", "model"),
                },
            ),
            Panel("A batch takes, p95", "s", {"{{model}}": quantile(0.95, "ragweave_model_batch_seconds", "model")}),
            Panel(
                "Texts that wait",
                "short",
                {"{{model}}: {{lane}}": "sum by (model, lane) (ragweave_model_queue_texts)"},
                "At 1024 of a kind callers are refused.",
                limit=500,
            ),
            Panel(
                "Looked up in the cache",
                "short",
                {"{{layer}}": rate("ragweave_embedding_cache_total", "layer")},
                stacked=True,
            ),
        ],
    },
)
