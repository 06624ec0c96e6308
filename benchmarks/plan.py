"""How long is measured."""

from dataclasses import dataclass
from typing import TypedDict


class RoundsAndSeconds(TypedDict):
    """As `measure` takes them."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How many rounds a measure has, and how long each contestant is loaded in each."""

    rounds: int
    seconds: float

    @property
    def rounds_and_seconds(self) -> RoundsAndSeconds:
        return {"rounds": self.rounds, "seconds": self.seconds}
