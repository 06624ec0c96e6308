"""What the local mesh reads of TLS from its environment."""

from pathlib import Path

import pytest

from ragweave.certificates import EDGE, OPERATOR, CertificateFiles
from ragweave.local.layout import BadSetting, Layout
from ragweave.local.processes import ensure_mesh_certificates, processes

MOUNTED = {"RAGWEAVE_TLS_CERT": "/m/crt", "RAGWEAVE_TLS_KEY": "/m/key", "RAGWEAVE_TLS_CA": "/m/ca"}


def read(folder: Path, **given: str) -> Layout:
    return Layout.read({"RAGWEAVE_DATA_DIR": str(folder), **given}, folder)


@pytest.mark.parametrize(("given", "on"), [("on", True), ("1", True), ("TRUE", True), ("off", False), ("", False)])
def test_tls_is_on_or_off_as_the_services_read_it(tmp_path: Path, given: str, on: bool) -> None:
    layout = read(tmp_path, RAGWEAVE_TLS=given)
    assert (layout.tls, layout.https) == (on, on)
    assert layout.url == f"{'https' if on else 'http'}://127.0.0.1:8080"
    assert layout.edge_authority == (tmp_path / "tls" / "ca.crt" if on else None)


def test_what_is_neither_on_nor_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="RAGWEAVE_TLS"):
        read(tmp_path, RAGWEAVE_TLS="maybe")


def test_mounted_certificates_serve_every_role_and_none_is_made(tmp_path: Path) -> None:
    layout = read(tmp_path, RAGWEAVE_TLS="on", RAGWEAVE_TLS_SERVER_NAME="mesh.example", **MOUNTED)
    assert layout.certificate("jobs") == CertificateFiles(Path("/m/crt"), Path("/m/key"), Path("/m/ca"))
    assert layout.edge_authority == Path("/m/ca")
    assert layout.server_name("jobs") == "mesh.example"
    assert ensure_mesh_certificates(layout, processes(layout)) == []
    assert not layout.certificates.exists()


@pytest.mark.parametrize("left_out", MOUNTED)
def test_half_of_what_is_mounted_is_refused_by_the_name_of_the_rest(tmp_path: Path, left_out: str) -> None:
    with pytest.raises(BadSetting, match=left_out):
        read(tmp_path, **{name: path for name, path in MOUNTED.items() if name != left_out})


def test_an_edge_with_a_certificate_of_its_own_is_trusted_by_the_systems_cas_or_the_one_named(tmp_path: Path) -> None:
    own = {"RAGWEAVE_EDGE_TLS_CERT": "/e/crt", "RAGWEAVE_EDGE_TLS_KEY": "/e/key"}
    assert (read(tmp_path, **own).https, read(tmp_path, **own).tls) == (True, False)
    assert read(tmp_path, RAGWEAVE_TLS="on", **own).edge_authority is None
    assert read(tmp_path, RAGWEAVE_EDGE_TLS_CA="/e/ca", **own).edge_authority == Path("/e/ca")


def test_the_local_cas_certificates_hold_for_what_the_mesh_is_called(tmp_path: Path) -> None:
    layout = read(
        tmp_path, RAGWEAVE_HOST="0.0.0.0", RAGWEAVE_EDGE_HOST="10.1.2.3", RAGWEAVE_TLS_HOSTS="rag.example, 10.1.2.3"
    )
    assert layout.hosts == ("10.1.2.3", "rag.example")


def test_every_process_but_the_store_gets_a_certificate_of_its_own(tmp_path: Path) -> None:
    layout = read(tmp_path, RAGWEAVE_TLS="on")
    roles = {process.role for process in processes(layout) if process.name != "redis"}
    assert "" not in roles and EDGE in roles
    assert set(ensure_mesh_certificates(layout, processes(layout))) == {*roles, OPERATOR}
    assert ensure_mesh_certificates(layout, processes(layout)) == []


REMOTE = {"RAGWEAVE_RETRIEVAL_STORE": "qdrant", "RAGWEAVE_RETRIEVAL_QDRANT_URL": "http://127.0.0.1:6333"}
TWO = {"RAGWEAVE_RETRIEVAL_REPLICAS": "2", "RAGWEAVE_WORKER_REPLICAS": "2", **REMOTE}


def test_replicas_are_processes_of_their_own_with_ports_ten_apart(tmp_path: Path) -> None:
    layout = read(tmp_path, RAGWEAVE_RETRIEVAL_PORT="51000", **TWO)
    by_name = {process.name: process for process in processes(layout)}
    assert [name for name in by_name if name.startswith(("retrieval", "worker"))] == [
        *("retrieval", "retrieval-2", "worker", "worker-2")
    ]
    assert by_name["retrieval-2"].address == "127.0.0.1:51010"
    assert by_name["retrieval-2"].environment == {
        "RAGWEAVE_RETRIEVAL_PORT": "51010",
        "RAGWEAVE_RETRIEVAL_METRICS_PORT": "9472",
    }
    assert by_name["retrieval-2"].role == by_name["retrieval"].role == "retrieval"
    assert by_name["worker-2"].environment["RAGWEAVE_JOBS_WORKER_NAME"] == "worker-2"


def test_everybody_is_told_of_all_replicas_of_a_service(tmp_path: Path) -> None:
    environment = read(tmp_path, RAGWEAVE_RETRIEVAL_2_PORT="51999", RAGWEAVE_HOST="0.0.0.0", **TWO).environment()
    assert environment["RAGWEAVE_RETRIEVAL_TARGET"] == "ipv4:127.0.0.1:50052,127.0.0.1:51999"
    assert environment["RAGWEAVE_JOBS_TARGET"] == "127.0.0.1:50054"
    assert environment["RAGWEAVE_RETRIEVAL_PORT"] == "50052"


def test_a_target_that_is_set_is_kept(tmp_path: Path) -> None:
    environment = read(tmp_path, RAGWEAVE_EMBEDDING_TARGET="dns:///embedding.example:443", **TWO).environment()
    assert environment["RAGWEAVE_EMBEDDING_TARGET"] == "dns:///embedding.example:443"


def test_replicas_have_ports_of_their_own_for_metrics(tmp_path: Path) -> None:
    given = {"RAGWEAVE_RETRIEVAL_METRICS_PORT": "9100", "RAGWEAVE_WORKER_2_METRICS_PORT": "9200"}
    layout = read(tmp_path, **given, **TWO)
    by_name = {process.name: process.environment for process in processes(layout)}
    assert by_name["retrieval"] == {}
    assert by_name["retrieval-2"]["RAGWEAVE_RETRIEVAL_METRICS_PORT"] == "9110"
    assert by_name["worker-2"]["RAGWEAVE_WORKER_METRICS_PORT"] == "9200"


@pytest.mark.parametrize("number", ["0", "10", "two", "-1"])
def test_a_number_of_replicas_that_cannot_be_is_refused_by_name(tmp_path: Path, number: str) -> None:
    with pytest.raises(BadSetting, match=r"RAGWEAVE_JOBS_REPLICAS: .* \(1 to 9\)"):
        read(tmp_path, RAGWEAVE_JOBS_REPLICAS=number)


def test_two_processes_on_the_embedded_index_are_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"RAGWEAVE_RETRIEVAL_REPLICAS: .*set RAGWEAVE_RETRIEVAL_STORE=qdrant"):
        read(tmp_path, RAGWEAVE_RETRIEVAL_REPLICAS="2")


def test_replicas_of_a_service_need_an_address_to_be_found_by(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"RAGWEAVE_HOST: .*'localhost' is none"):
        read(tmp_path, RAGWEAVE_HOST="localhost", RAGWEAVE_JOBS_REPLICAS="2")
    assert read(tmp_path, RAGWEAVE_HOST="localhost", RAGWEAVE_WORKER_REPLICAS="2").parts("worker")[1] == "worker-2"


def test_a_replica_on_a_port_of_another_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"RAGWEAVE_JOBS_PORT=50054.*RAGWEAVE_RETRIEVAL_2_PORT=50054"):
        read(tmp_path, RAGWEAVE_RETRIEVAL_2_PORT="50054", **TWO)
