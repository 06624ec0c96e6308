"""Renaming what a restore made ready into place, in steps of which each can be the last."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ragweave.copying import sync_file

NOTE: Final = "restore.json"


@dataclass(frozen=True, slots=True)
class Swap:
    """A part that is put in place.

    Attributes:
        new: Where it is made ready.
        old: Where what was there goes.
        had: Whether something was there.
    """

    part: str
    place: Path
    new: Path
    old: Path
    had: bool

    @classmethod
    def of(cls, part: str, place: Path, stamp: str) -> "Swap":
        new = place.with_name(f".{place.name}.restored")
        return cls(part, place, new, place.with_name(f"{place.name}.replaced-{stamp}"), place.exists())

    def take(self) -> None:
        if self.had:
            self.place.rename(self.old)
        self.new.rename(self.place)
        sync_file(self.place.parent)

    def take_back(self) -> None:
        """Whatever was done of `take`, and of this."""
        if self.old.exists() or not self.had:
            clear(self.place)
        if self.old.exists():
            self.old.rename(self.place)
        clear(self.new)
        sync_file(self.place.parent)


def settle(data: Path) -> bool:
    """Takes back a restore that was cut off while it swapped; whether there was one."""
    try:
        noted = json.loads((data / NOTE).read_text())
    except FileNotFoundError:
        return False
    for each in noted:
        paths = {name: Path(each[name]) for name in ("place", "new", "old")}
        Swap(part=each["part"], had=each["had"], **paths).take_back()
    forget_note(data)
    return True


def note(data: Path, swaps: Sequence[Swap]) -> None:
    """Writes down, durably, what is about to be swapped: until `forget_note`, whoever finds it takes it back."""
    content = [
        {"part": e.part, "place": str(e.place), "new": str(e.new), "old": str(e.old), "had": e.had} for e in swaps
    ]
    part = data / f".{NOTE}"
    part.write_text(json.dumps(content))
    part.chmod(0o600)
    sync_file(part)
    part.rename(data / NOTE)
    sync_file(data)


def forget_note(data: Path) -> None:
    """The swap holds from here on."""
    (data / NOTE).unlink()
    sync_file(data)


def clear(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
