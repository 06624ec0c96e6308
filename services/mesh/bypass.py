"""Caches that seldom have what they are asked for, passed by for most of the time."""

from typing import Final

# Lookups in a row in vain after which a cache is passed by, and which part of them is made even then.
_IN_VAIN: Final = 64
_ONE_OF: Final = 16


class AdaptiveBypass:
    """Says whether a cache is looked into this time.

    A lookup over the network costs about a tenth of what it may save, so where none has found anything for long it is
    not worth it. Now and then the cache is looked into even so, and as soon as that finds something, each time again.
    A process that has just started looks each time: others, or itself before, may have left what it needs.
    """

    def __init__(self) -> None:
        self._in_vain = 0
        self._passed = 0

    def looks(self) -> bool:
        """Whether to look now; tell `found` what came of it."""
        if self._in_vain < _IN_VAIN:
            return True
        self._passed = (self._passed + 1) % _ONE_OF
        return self._passed == 0

    def found(self, anything: bool) -> None:
        """Notes what a lookup brought."""
        self._in_vain = 0 if anything else self._in_vain + 1
