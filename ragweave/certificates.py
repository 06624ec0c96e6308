"""Where certificates are kept and which names they carry: what the processes of a mesh and its tools agree on."""

from dataclasses import dataclass
from pathlib import Path

# Each process has a certificate of its own with its role as a name under this domain, which no public CA issues
# (.internal is reserved for private use: ICANN, 2024).
DOMAIN = "ragweave.internal"
EDGE = "edge"
# Whose certificate people's tools show to a service's own port.
OPERATOR = "operator"


def name_of(role: str) -> str:
    """The name a certificate of the local CA carries for a role: "jobs" is "jobs.ragweave.internal"."""
    return f"{role}.{DOMAIN}"


def role_of(name: str) -> str | None:
    """The role a certificate's name stands for; None for any other name."""
    role, _, domain = name.partition(".")
    return role if role and domain == DOMAIN else None


@dataclass(frozen=True)
class CertificateFiles:
    """What one process shows and whom it trusts, as PEM files.

    Attributes:
        certificate: Its certificate, followed by those that lead to the CA.
        key: The private key of it.
        authority: The CA certificates a peer's must lead to.
    """

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def local(cls, folder: Path, role: str) -> "CertificateFiles":
        """Those the local CA made for a role."""
        return cls(folder / f"{role}.crt", folder / f"{role}.key", folder / "ca.crt")
