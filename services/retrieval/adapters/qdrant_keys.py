"""Names inside an index and its version, the same for the server and for Edge; engines load it too, so it is light."""

from collections.abc import Mapping
from typing import Final, NamedTuple

DENSE: Final = "dense"
SPARSE: Final = "sparse"


class Step(NamedTuple):
    """What an index of the version before lacks. It may be taken again, and beside another process that takes it.

    Attributes:
        keywords: Payload keys that get an index for equality.
        integers: Payload keys whose values are counted.
        defaults: Payload that chunks get where they have none of the key.
    """

    keywords: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    defaults: Mapping[str, object] = {}


STEPS: Final[Mapping[int, Step]] = {1: Step(keywords=("document", "acl"), integers=("length", "scale"))}
"""How an index of each version is made of one of the version before; 0 is one with vectors and nothing else.

What a step cannot add has a remedy of its own: sparse weights are made anew wherever `scale` is another (scaling.py),
and other vectors need another collection.
"""

SCHEMA: Final = max(STEPS)
"""Version of what is in an index; one that is newer is refused."""

KEYWORDS: Final = tuple(key for step in STEPS.values() for key in step.keywords)
INTEGERS: Final = tuple(key for step in STEPS.values() for key in step.integers)
