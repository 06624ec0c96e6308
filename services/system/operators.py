"""Who may name any tenant."""

from services.mesh.identity import Caller


class Operators:
    """Callers of one configured tenant that hold the scope `admin`.

    Args:
        tenant: That tenant; tokens that name it are given to nobody else.
    """

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    def include(self, who: Caller) -> bool:
        return who.tenant == self._tenant and "admin" in who.scopes and not who.anonymous

    def are(self, tenant: str) -> bool:
        """Whether it is theirs."""
        return tenant == self._tenant
