"""Names inside an index, the same for the server and for Edge; imports nothing, since engines load it too."""

from typing import Final

DENSE: Final = "dense"
SPARSE: Final = "sparse"

KEYWORDS: Final = ("document", "acl")
"""Payload keys with an index for equality."""

INTEGERS: Final = ("length", "scale")
"""Payload keys whose values are counted."""
