"""What an update changes: field masks as AIP-134 and AIP-161 have them."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.mesh.errors import InvalidArgument


@dataclass(frozen=True)
class Mask:
    """The fields of one resource, by what an update may do to them.

    Args:
        prefix: The resource in its request, such as "collection", for the names in errors.
        mutable: What each field that may change is when it is cleared; a dataclass or mapping lends its parts to paths.
        unset: What a field that is None when cleared is when only a part of it is given.
        fixed: Fields set once, on creation.
        ignored: Fields an update passes over: output only ones, the name, the etag.
    """

    prefix: str
    mutable: Mapping[str, Any]
    unset: Mapping[str, Any] = field(default_factory=dict)
    fixed: Collection[str] = ()
    ignored: Collection[str] = ()

    def changes(
        self, current: Mapping[str, Any], given: Mapping[str, Any], paths: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The new values of the fields to change.

        Args:
            current: The values of the mutable and fixed fields now.
            given: The values the request sets; a field it leaves out is not in it.
            paths: The update_mask: nothing for every field that is given, "*" for all.

        Raises:
            InvalidArgument: An unknown path, or another value for a fixed field; names the fields that can change.
        """
        if "*" in paths:
            if len(paths) > 1:
                raise InvalidArgument.of("update_mask", "* stands alone")
            paths = (*self.mutable, *(name for name in self.fixed if name in given))
        changed: dict[str, Any] = {}
        for path in paths or given:
            name, _, part = path.partition(".")
            if name in self.ignored:
                continue
            if name in self.fixed and not part:
                self._check_fixed(name, current[name], given.get(name))
            elif name in self.mutable:
                value = given.get(name, self.mutable[name])
                changed[name] = self._within(path, changed.get(name, current[name]), value) if part else value
            else:
                raise self._unknown(path)
        return changed

    def _check_fixed(self, name: str, current: Any, value: Any) -> None:
        if value is not None and value != current:
            raise InvalidArgument.of(f"{self.prefix}.{name}", f"is fixed after creation, as {current!r}")

    def _within(self, path: str, current: Any, value: Any) -> Any:
        """`current` with the one part that `path` names as it is in `value`."""
        name, _, part = path.partition(".")
        current, value = (self.unset.get(name) if each is None else each for each in (current, value))
        if isinstance(current, Mapping):
            kept = {key: each for key, each in current.items() if key != part}
            return {**kept, part: value[part]} if part in value else kept
        if dataclasses.is_dataclass(current) and part in {each.name for each in dataclasses.fields(current)}:
            return dataclasses.replace(current, **{part: getattr(value, part)})  # type: ignore[type-var]
        raise self._unknown(path)

    def _unknown(self, path: str) -> InvalidArgument:
        supported = ", ".join(self.mutable)
        return InvalidArgument.of("update_mask", f"{path[:80]!r} is no field that can change; those are: {supported}")
