"""What is read from the contract, and that an incomplete one does not load."""

import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.duration_pb2 import Duration

import ragweave.internal.v1
import ragweave.v1
from ragweave import contract
from ragweave.contract import HttpBinding
from ragweave.v1 import policy_pb2
from ragweave.v1.policy_pb2 import Policy


def file_with(policy: Policy | None, *, package: str = "ragweave.test") -> FileDescriptor:
    """A file of one service, one method, one policy or none, in a pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    for dependency in (descriptor_pb2.DESCRIPTOR,):
        pool.AddSerializedFile(dependency.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.message_type.add(name="Empty")
    method = file.service.add(name="Lamp").method.add(
        name="Light", input_type=f".{package}.Empty", output_type=f".{package}.Empty"
    )
    if policy is not None:
        method.options.Extensions[policy_pb2.policy].CopyFrom(policy)
    pool.Add(file)
    return pool.FindFileByName(file.name)


def complete(**changed: Any) -> Policy:
    return Policy(**{"scope": "search", "rate_class": Policy.SEARCH, "timeout": Duration(seconds=5), **changed})


def test_every_rpc_of_the_contract_has_a_policy() -> None:
    assert contract.methods()


def test_every_service_file_is_read() -> None:
    files = [
        module.name
        for package in (ragweave.v1, ragweave.internal.v1)
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.endswith("_service_pb2")
    ]
    assert len({each.descriptor.containing_service.file.name for each in contract.methods().values()}) == len(files)


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (None, "no policy"),
        (complete(rate_class=Policy.RATE_CLASS_UNSPECIFIED), "rate class"),
        (complete(timeout=Duration()), "no timeout"),
        (complete(scope=""), "no scope"),
        (complete(open=True), "open, and yet guarded"),
        (complete(scope="", open=True, internal=True), "open, and yet guarded"),
    ],
)
def test_an_rpc_that_is_not_guarded_is_named(policy: Policy | None, fault: str) -> None:
    with pytest.raises(contract.IncompleteContract, match=f"/ragweave.test.Lamp/Light: .*{fault}"):
        contract.read([file_with(policy)])


def test_an_internal_rpc_needs_no_scope() -> None:
    (method,) = contract.read([file_with(complete(scope="", internal=True))]).values()
    assert method.internal


def test_an_open_rpc_needs_no_scope() -> None:
    (method,) = contract.read([file_with(complete(scope="", open=True))]).values()
    assert method.open


def test_whatever_is_in_the_internal_package_is_internal() -> None:
    (method,) = contract.read([file_with(complete(), package=contract.INTERNAL_PACKAGE)]).values()
    assert method.internal


def test_a_method_is_read_whole() -> None:
    search = contract.method("/ragweave.v1.RetrievalService/Search")
    assert (search.service, search.name) == ("ragweave.v1.RetrievalService", "Search")
    assert (search.scope, search.rate_class, search.timeout_s) == ("search", "SEARCH", 5.0)
    assert (search.public_collections, search.internal) == (True, False)
    assert (search.client_streaming, search.server_streaming) == (False, False)
    assert search.http == (
        HttpBinding("POST", "/api/v1/rag/search", body="*"),
        HttpBinding("POST", "/api/v1/rag/{collection=collections/*}:search", body="*"),
    )


def test_a_path_outside_the_contract_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        contract.method("/ragweave.v1.RetrievalService/Seek")


def test_internal_services_are_not_public() -> None:
    assert "ragweave.v1.RetrievalService" in contract.public_services()
    assert not [name for name in contract.public_services() if ".internal." in name]


def test_only_methods_without_side_effects_are_retried_and_only_when_unavailable() -> None:
    config = json.loads(contract.service_config())
    (entry,) = config["methodConfig"]
    retried = {f"/{name['service']}/{name['method']}" for name in entry["name"]}
    assert retried == {
        path
        for path, each in contract.methods().items()
        if each.idempotency == "NO_SIDE_EFFECTS" and not each.client_streaming and not each.server_streaming
    }
    assert "/ragweave.v1.JobService/WatchJob" not in retried, "streams are resumed, not retried"
    assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert entry["retryPolicy"]["maxAttempts"] == 2
    assert {"initialBackoff", "maxBackoff", "backoffMultiplier"} <= set(entry["retryPolicy"])
    assert "timeout" not in entry


def test_the_config_balances_checks_health_and_throttles_retries() -> None:
    config = json.loads(contract.service_config())
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": ""}
    assert config["retryThrottling"] == {"maxTokens": 100, "tokenRatio": 0.1}
    assert "healthCheckConfig" not in json.loads(contract.service_config(health_check=False))


def test_the_reader_needs_nothing_of_the_services() -> None:
    code = (
        "import sys, ragweave.contract as c; c.methods(); sys.exit(any(m.startswith('services') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
