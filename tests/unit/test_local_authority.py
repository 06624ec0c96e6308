"""The local CA: what its certificates say, and when it makes new ones."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ragweave.certificates import OPERATOR, CertificateFiles, name_of, role_of
from ragweave.local.authority import LEAF_DAYS, RENEW_DAYS, certificates_in, ensure_certificates

NOW = datetime(2030, 5, 1, tzinfo=UTC)


def leaf(folder: Path, role: str) -> x509.Certificate:
    return certificates_in(CertificateFiles.local(folder, role).certificate)[0]


def names(certificate: x509.Certificate) -> tuple[set[str], set[str]]:
    carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(each) for each in carried.get_values_for_type(x509.IPAddress)}
    return set(carried.get_values_for_type(x509.DNSName)), addresses


def test_each_role_gets_a_certificate_of_the_ca_for_its_name_and_this_machine(tmp_path: Path) -> None:
    assert ensure_certificates(tmp_path, ["jobs", "edge"], ["rag.example", "10.1.2.3"], now=NOW) == [
        "edge",
        "jobs",
        OPERATOR,
    ]
    (authority,) = certificates_in(tmp_path / "ca.crt")
    for role in ("jobs", "edge"):
        certificate = leaf(tmp_path, role)
        certificate.verify_directly_issued_by(authority)
        assert names(certificate) == (
            {name_of(role), "localhost", "rag.example"},
            {"127.0.0.1", "::1", str(ipaddress.ip_address("10.1.2.3"))},
        )
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
        assert certificate.not_valid_after_utc == NOW + timedelta(days=LEAF_DAYS)
        assert certificate.not_valid_before_utc < NOW


def test_a_leaf_can_sign_no_other_and_an_operators_serves_nobody(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["jobs"], now=NOW)
    for role in ("jobs", OPERATOR):
        extensions = leaf(tmp_path, role).extensions
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = leaf(tmp_path, OPERATOR).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert names(leaf(tmp_path, OPERATOR)) == ({name_of(OPERATOR)}, set())
    (authority,) = certificates_in(tmp_path / "ca.crt")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_private_keys_are_their_owners_alone_and_the_cas_lies_apart(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    ensure_certificates(folder, ["jobs"], now=NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "authority").stat().st_mode & 0o777 == 0o700
    keys = list(folder.rglob("*.key"))
    assert {path.relative_to(folder).as_posix() for path in keys} == {"jobs.key", "operator.key", "authority/ca.key"}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_nothing_is_made_anew_before_its_time(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["jobs"], now=NOW)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    later = NOW + timedelta(days=LEAF_DAYS - RENEW_DAYS - 1)
    assert ensure_certificates(tmp_path, ["jobs"], now=later) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_certificate_near_its_end_is_renewed_by_the_same_ca(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["jobs"], now=NOW)
    authority = (tmp_path / "ca.crt").read_bytes()
    later = NOW + timedelta(days=LEAF_DAYS - RENEW_DAYS)
    assert ensure_certificates(tmp_path, ["jobs"], now=later) == ["jobs", OPERATOR]
    assert leaf(tmp_path, "jobs").not_valid_after_utc == later + timedelta(days=LEAF_DAYS)
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_a_ca_near_its_end_is_replaced_and_trusted_until_it_ends(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["jobs"], now=NOW)
    (first,) = certificates_in(tmp_path / "ca.crt")
    later = first.not_valid_after_utc - timedelta(days=LEAF_DAYS)
    assert ensure_certificates(tmp_path, ["jobs"], now=later) == ["jobs", OPERATOR]
    second, kept = certificates_in(tmp_path / "ca.crt")
    assert kept == first
    leaf(tmp_path, "jobs").verify_directly_issued_by(second)


@pytest.mark.parametrize("what", ["other hosts", "another role's key", "not PEM", "key gone", "another CA's"])
def test_a_certificate_that_does_not_fit_is_made_anew(tmp_path: Path, what: str) -> None:
    ensure_certificates(tmp_path, ["jobs", "edge"], now=NOW)
    hosts = ["rag.example"] if what == "other hosts" else []
    if what == "another role's key":
        (tmp_path / "jobs.key").write_bytes((tmp_path / "edge.key").read_bytes())
    if what == "not PEM":
        (tmp_path / "jobs.crt").write_text("nonsense")
    if what == "key gone":
        (tmp_path / "jobs.key").unlink()
    if what == "another CA's":
        ensure_certificates(tmp_path / "other", ["jobs"], now=NOW)
        for name in ("jobs.crt", "jobs.key"):
            (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert "jobs" in ensure_certificates(tmp_path, ["jobs", "edge"], hosts, now=NOW)
    assert ensure_certificates(tmp_path, ["jobs", "edge"], hosts, now=NOW) == []


def test_roles_are_read_back_from_names() -> None:
    assert role_of(name_of("jobs")) == "jobs"
    assert [role_of(each) for each in ("localhost", "jobs.example", "a.b.ragweave.internal", ".ragweave.internal")] == [
        None
    ] * 4
