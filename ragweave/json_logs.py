"""Logs of a process of the mesh: a JSON object a line. Needs what the extra `mesh` installs."""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import structlog

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_NAME: Final = re.compile(r"\w+(\.\w+)*")


def log_levels_from(text: str) -> dict[str, int]:
    """Least levels by the names of their loggers, from `mesh.calls=warning,grpc=debug`.

    Raises:
        ValueError: An entry is not of a logger and a level, or a logger is there twice.
    """
    levels: dict[str, int] = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        name, _, level = (part.strip() for part in entry.partition("="))
        if not _NAME.fullmatch(name) or level.lower() not in _LEVELS:
            raise ValueError(f"takes loggers and their levels ({', '.join(_LEVELS)}), such as mesh.calls=warning")
        if name in levels:
            raise ValueError(f"has the logger {name} twice")
        levels[name] = _LEVELS[level.lower()]
    return levels


def write_json_logs(
    service: str,
    level: str,
    levels: Mapping[str, int],
    *,
    adding: Sequence[structlog.typing.Processor] = (),
) -> None:
    """Has every line of this process written to stderr as one JSON object, our own and those of libraries alike.

    Args:
        level: Least level of what is written; of libraries warning at least.
        levels: Least levels of single loggers, libraries' included, and of those below them by their names.
        adding: What adds to each line.
    """
    least = _LEVELS[level]

    def named(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        *adding,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]
    rendered: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]
    lines = cast(TextIO, _Lines(sys.stderr))

    def bound(logger: "_NamedLogger", processors: Any, context: Any) -> Any:
        kind: Any = structlog.make_filtering_bound_logger(_least_of(logger.name, levels, least))
        return kind(logger, processors, context)

    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=cast(type[structlog.typing.BindableLogger], bound),
        logger_factory=lambda name="": _NamedLogger(lines, name),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[handler], force=True)
    for name, its in levels.items():
        logging.getLogger(name).setLevel(its)


def _least_of(logger: str, levels: Mapping[str, int], otherwise: int) -> int:
    """What the logger itself was given, else the closest above it, as `jobs` is above `jobs.worker`."""
    while logger and logger not in levels:
        logger = logger.rpartition(".")[0]
    return levels.get(logger, otherwise)


class _NamedLogger(structlog.WriteLogger):
    """Writes lines of the logger of that name."""

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


class _Lines:
    """A file of a log, whose disk may be full: a call that went well does not fail because nobody can read about it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        with suppress(OSError):
            self._file.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()
