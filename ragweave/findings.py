"""What `ragweave doctor` says: one thing it looked at, and what to do about it where it is not as it should be."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """ERROR: something does not work, or is about to stop. WARNING: it works, worse or less safely than it might."""

    OK = "OK"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: What was found; names the setting, file, port or process. Holds no secret.
        why: Why that matters; empty where all is well.
        mend: What to do about it, with the command or setting; empty where all is well.
    """

    severity: Severity
    what: str
    why: str = ""
    mend: str = ""


def ok(what: str) -> Finding:
    return Finding(Severity.OK, what)


def warning(what: str, why: str, mend: str) -> Finding:
    return Finding(Severity.WARNING, what, why, mend)


def error(what: str, why: str, mend: str) -> Finding:
    return Finding(Severity.ERROR, what, why, mend)


def to_lines(findings: Iterable[Finding]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(asdict(each)) + "\n" for each in findings)


def from_lines(lines: str) -> list[Finding]:
    read = (json.loads(line) for line in lines.splitlines())
    return [Finding(Severity(each["severity"]), each["what"], each["why"], each["mend"]) for each in read]
