"""The local CA: made on first use, it gives each process of this machine's mesh a certificate and renews it in time."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ragweave.certificates import OPERATOR, CertificateFiles, name_of
from ragweave.local.files import replace_file

LEAF_DAYS = 90
RENEW_DAYS = 30
_AUTHORITY_DAYS = 3650
# Clocks of two machines differ a little.
_BACKDATED = timedelta(minutes=5)
_ALWAYS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_certificates(
    folder: Path, roles: Iterable[str], hosts: Sequence[str] = (), *, now: datetime | None = None
) -> list[str]:
    """Makes or renews the certificate of each role, and of OPERATOR, where it is missing, false or near its end.

    Keys are P-256, readable by their owner alone. The CA's own key lies apart, in `authority/`: only renewing needs it.
    A CA near its end is replaced, and trusted beside its successor until it ends.

    Args:
        folder: Where <role>.crt, <role>.key and ca.crt are; made where it is missing.
        hosts: Names and addresses the certificates hold for, beside this machine's loopback ones.

    Returns:
        The roles whose certificate is new.
    """
    now = now or datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = _authority(folder, now)
    renewed = []
    for role in sorted({*roles, OPERATOR}):
        files = CertificateFiles.local(folder, role)
        names = _names(role, hosts)
        if not _holds(files, authority, names, now):
            certificate, key = _leaf(authority, role, names, now)
            # The key first: who reads between the two finds that they do not fit, and looks again.
            replace_file(files.key, key, 0o600)
            replace_file(files.certificate, certificate, 0o644)
            renewed.append(role)
    return renewed


def certificates_in(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file. Raises OSError or ValueError where there are none."""
    return x509.load_pem_x509_certificates(path.read_bytes())


def _authority(folder: Path, now: datetime) -> _Authority:
    certificate_file, key_file = folder / "ca.crt", folder / "authority" / "ca.key"
    try:
        known = certificates_in(certificate_file)
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and known[0].public_key() == key.public_key()
            and known[0].not_valid_after_utc - now > timedelta(days=2 * LEAF_DAYS)
        ):
            return _Authority(known[0], key)
    except (OSError, ValueError):
        known = []
    made = _new_authority(now)
    key_file.parent.mkdir(exist_ok=True, mode=0o700)
    replace_file(key_file, _private(made.key), 0o600)
    trusted = [made.certificate, *(each for each in known if each.not_valid_after_utc > now)]
    replace_file(certificate_file, b"".join(_public(each) for each in trusted), 0o644)
    return made


def _new_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"Ragweave local CA {x509.random_serial_number():x}"[:40])]
    )
    builder = _builder(name, name, key.public_key(), now, timedelta(days=_AUTHORITY_DAYS))
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, key)


def _leaf(authority: _Authority, role: str, names: Sequence[x509.GeneralName], now: datetime) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
    lifetime = timedelta(days=LEAF_DAYS)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([] if role == OPERATOR else [ExtendedKeyUsageOID.SERVER_AUTH])]
    certificate = (
        _builder(subject, authority.certificate.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _public(certificate), _private(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(role: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """An operator's certificate names nobody a client could look for."""
    known = [name_of(role)] if role == OPERATOR else [name_of(role), *_ALWAYS, *hosts]
    return [_general_name(each) for each in dict.fromkeys(known)]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _holds(files: CertificateFiles, authority: _Authority, names: Sequence[x509.GeneralName], now: datetime) -> bool:
    """Whether a certificate is of this CA, for these names, of its key, and not near its end."""
    try:
        (certificate,) = certificates_in(files.certificate)
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        certificate.verify_directly_issued_by(authority.certificate)
        carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with it, a new one is made
        return False
    return (
        key.public_key() == certificate.public_key()
        and list(carried) == list(names)
        and certificate.not_valid_before_utc <= now
        and certificate.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
