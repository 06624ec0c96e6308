"""The functions of filter text; each says what a comparison with stars says too, and becomes the same tree."""

import difflib
from dataclasses import dataclass
from typing import Final

from services.mesh.filters.schema import Literal, Target, Wildcard, shown
from services.mesh.filters.tree import Filter


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one field, and of a text where it takes one.

    Args:
        asks: What its field is compared with: anything, or its text as the beginning or a part.
    """

    name: str
    asks: Wildcard

    @property
    def takes_text(self) -> bool:
        return self.asks is not Wildcard.ANYTHING

    @property
    def usage(self) -> str:
        return f'{self.name}(field, "text")' if self.takes_text else f"{self.name}(field)"

    def of(self, target: Target, text: Literal | None) -> Filter:
        """The filter that the function means for a field.

        Raises:
            ValueError: It does not apply to the field, or the text is none.
        """
        return target.present() if text is None else target.matches(self.asks, text)


FUNCTIONS: Final = {
    each.name: each
    for each in (
        Function("contains", Wildcard.SUBSTRING),
        Function("exists", Wildcard.ANYTHING),
        Function("prefix", Wildcard.PREFIX),
    )
}

# What other languages call them.
_ALIASES: Final = {
    "defined": "exists",
    "has": "exists",
    "isset": "exists",
    "present": "exists",
    "beginswith": "prefix",
    "hasprefix": "prefix",
    "startswith": "prefix",
    "includes": "contains",
    "like": "contains",
    "substring": "contains",
}


def function_of(name: str) -> Function:
    """The function called `name`.

    Raises:
        ValueError: There is none; names those there are, and the likeliest one meant.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    plain = name[:40].lower().replace("_", "")
    close = difflib.get_close_matches(plain, [*FUNCTIONS, *_ALIASES], n=1)
    meant = f" (did you mean {_ALIASES.get(close[0], close[0])}?)" if close else ""
    known = ", ".join(each.usage for each in FUNCTIONS.values())
    raise ValueError(f"no function {shown(name)}{meant}; functions: {known}")
