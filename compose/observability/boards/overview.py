"""The board to begin with."""

from typing import Final

from compose.observability.boards.parts import Board, Panel, quantile, rate

_JOBS: Final = 'job=~"$job"'
_FAILED: Final = 'code=~"UNKNOWN|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS"'

OVERVIEW: Final = Board(
    "ragweave-overview",
    "Ragweave: services",
    "Whether everything is up, who calls whom, what fails and how long it takes. Begin here.",
    {
        "Is it up?": [
            Panel("Processes that answer", "short", {"{{job}}": "sum by (job) (up)"}, "By scrape; none is a page."),
            Panel(
                "Breakers",
                "short",
                {"{{job}}: {{dependency}}": f"max by (job, dependency) (ragweave_breaker_state{{{_JOBS}}})"},
                "0 closed, 1 half-open: tries, 2 open: the dependency is left alone.",
                limit=2,
            ),
            Panel(
                "Free disk",
                "percentunit",
                {"{{job}} {{instance}}": f"ragweave_disk_free_bytes{{{_JOBS}}} / ragweave_disk_size_bytes{{{_JOBS}}}"},
                limit=0.1,
            ),
            Panel(
                "Newest backup",
                "s",
                {"age": "time() - (max(ragweave_backup_last_success_timestamp_seconds) > 0)"},
                "Nothing where none was ever made.",
                limit=26 * 3600,
            ),
            Panel(
                "Versions",
                "short",
                {"{{service}} {{version}}": "sum by (service, version) (ragweave_build_info)"},
                "Two of a service: an upgrade is under way.",
            ),
        ],
        "Calls served": [
            Panel("Calls", "reqps", {"{{method}}": rate("ragweave_rpc_total", "method", _JOBS)}, stacked=True),
            Panel(
                "Failures that are ours",
                "reqps",
                {"{{method}} {{code}}": rate("ragweave_rpc_total", "method, code", f"{_JOBS},{_FAILED}")},
                "Refusals of callers' own making are not among them.",
            ),
            Panel("Duration, p95", "s", {"{{method}}": quantile(0.95, "ragweave_rpc_seconds", "method", _JOBS)}),
            Panel(
                "Pages (gateway)",
                "reqps",
                {"{{path}} {{status}}": rate("ragweave_http_requests_total", "path, status")},
            ),
            Panel(
                "Refused in time",
                "reqps",
                {"{{job}}: {{reason}}": rate("ragweave_rpc_shed_total", "job, reason", _JOBS)},
                "What could not have been answered before its deadline.",
            ),
            Panel(
                "Waiting",
                "short",
                {"{{job}}: {{rate_class}}": f"sum by (job, rate_class) (ragweave_rpc_waiting{{{_JOBS}}})"},
            ),
            Panel("Running now", "short", {"{{job}}": f"sum by (job) (ragweave_rpc_in_flight{{{_JOBS}}})"}),
        ],
        "Calls between services": [
            Panel("Calls", "reqps", {"{{job}} to {{method}}": rate("ragweave_hop_total", "job, method", _JOBS)}),
            Panel(
                "Failures",
                "reqps",
                {
                    "{{job}} to {{method}}: {{code}}": rate(
                        "ragweave_hop_total", "job, method, code", f'{_JOBS},code!="OK"'
                    )
                },
            ),
            Panel(
                "Duration, p95",
                "s",
                {"{{job}} to {{method}}": quantile(0.95, "ragweave_hop_seconds", "job, method", _JOBS)},
            ),
            Panel(
                "Under way now",
                "short",
                {"{{job}} to {{method}}": f"sum by (job, method) (ragweave_hop_in_flight{{{_JOBS}}})"},
            ),
            Panel(
                "Breakers opened, and what they refused",
                "short",
                {
                    "{{job}}: {{dependency}} opened": rate("ragweave_breaker_opened_total", "job, dependency", _JOBS),
                    "{{job}}: {{dependency}} refused": rate(
                        "ragweave_breaker_refusals_total", "job, dependency", _JOBS
                    ),
                },
            ),
        ],
        "Processes": [
            Panel(
                "Processor",
                "short",
                {"{{job}} {{instance}}": rate("process_cpu_seconds_total", "job, instance", _JOBS)},
                "Cores.",
            ),
            Panel("Memory", "bytes", {"{{job}} {{instance}}": f"process_resident_memory_bytes{{{_JOBS}}}"}),
            Panel(
                "Event loop late by, p99",
                "s",
                {"{{job}} {{instance}}": quantile(0.99, "ragweave_event_loop_lag_seconds", "job, instance", _JOBS)},
                "Everything in a process waits for its loop.",
                limit=0.25,
            ),
            Panel("Open files", "short", {"{{job}} {{instance}}": f"process_open_fds{{{_JOBS}}}"}),
            Panel(
                "Since maintenance was last done",
                "s",
                {
                    "{{service}}: {{step}}": "time() - "
                    "max by (service, step) (ragweave_maintenance_last_run_timestamp_seconds)"
                },
                limit=3600,
            ),
            Panel(
                "Maintenance done",
                "short",
                {"{{service}}: {{step}}": rate("ragweave_maintenance_done_total", "service, step")},
            ),
            Panel(
                "Starts",
                "short",
                {"{{job}} {{instance}}": f"changes(process_start_time_seconds{{{_JOBS}}}[$__rate_interval])"},
            ),
        ],
    },
    by_job=True,
)
