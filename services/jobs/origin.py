"""What is kept with a document of the way its original was read, so that it can be made again from the stored bytes."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from services.jobs.job import DocumentSpec


@dataclass(frozen=True, slots=True)
class Origin:
    """What its import was told of the original.

    Attributes:
        mime_type: As declared; "" where it was found.
        charset: Where known for certain.
        titled: The title was given, not found in the text.
    """

    mime_type: str = ""
    charset: str = ""
    titled: bool = False

    @classmethod
    def of(cls, spec: DocumentSpec) -> Self:
        return cls(spec.mime_type, spec.charset, bool(spec.title))

    @classmethod
    def unpacked(cls, packed: str) -> Self | None:
        """What `packed` gave, by this version or another; None where nothing was kept."""
        if not packed:
            return None
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in json.loads(packed).items() if name in known})

    def packed(self) -> str:
        """For the registry; what is not known is left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, separators=(",", ":"))
