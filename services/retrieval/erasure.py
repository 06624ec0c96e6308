"""Erasing what retrieval keeps of a tenant, a part at a time."""

from typing import Protocol


class Keeper(Protocol):
    async def erase(self, tenant: str) -> int:
        """Erases some of what it keeps of the tenant; returns how many things these were, 0 once nothing is left."""
        ...


class Erasure:
    """Several keepers as one."""

    def __init__(self, *keepers: Keeper) -> None:
        self._keepers = keepers

    async def erase(self, tenant: str) -> int:
        """As Keeper has it."""
        return sum([await keeper.erase(tenant) for keeper in self._keepers])
