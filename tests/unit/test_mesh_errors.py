"""Every domain error has a code, and every exception becomes a status that tells no secrets."""

from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata

from services.mesh import errors
from services.mesh.errors import STATUS, DomainError, EtagMismatch, InvalidArgument, TooManyRequests, Violation
from services.mesh.status import DETAILS_KEY, code_of, is_expected, retry_after_s, status_of


def domain_errors() -> list[type[DomainError]]:
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, DomainError) and each is not DomainError
    ]


def detail(status: Status, kind: type) -> object:
    found = kind()
    assert any(each.Unpack(found) for each in status.details)
    return found


def downstream(code: grpc.StatusCode, status: Status | None = None) -> AioRpcError:
    trailing = Metadata((DETAILS_KEY, status.SerializeToString())) if status else Metadata()
    return AioRpcError(code, Metadata(), trailing, details="text of the callee")


def test_the_table_covers_every_domain_error() -> None:
    assert set(STATUS) == set(domain_errors())


def test_no_two_domain_errors_share_a_reason() -> None:
    reasons = [each.reason for each in domain_errors()]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("kind", domain_errors())
def test_each_domain_error_carries_code_message_and_reason(kind: type[DomainError]) -> None:
    status = status_of(kind("what happened"))
    info = detail(status, details.ErrorInfo)
    assert (code_of(status), status.message) == (STATUS[kind], "what happened")
    assert (info.reason, info.domain) == (kind.reason, "ragweave")  # type: ignore[attr-defined]


def test_an_error_derived_from_a_listed_one_has_its_code() -> None:
    class Narrower(EtagMismatch):
        reason = "NARROWER"

    assert code_of(status_of(Narrower("x"))) is grpc.StatusCode.ABORTED


def test_the_first_failure_of_a_field_names_it() -> None:
    assert InvalidArgument.of("top_k", "is too large").violations == (Violation("top_k", "is too large"),)


def test_retry_info_is_told_and_read_back() -> None:
    assert retry_after_s(status_of(TooManyRequests("full", retry_after_s=2.5))) == 2.5
    assert retry_after_s(status_of(TooManyRequests("full"))) is None


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_downstream_status_the_caller_can_act_on_passes_whole(code: grpc.StatusCode) -> None:
    sent = Status(code=code.value[0], message="as it was")
    assert status_of(downstream(code, sent)) == sent


def test_a_downstream_status_without_details_keeps_code_and_message() -> None:
    status = status_of(downstream(grpc.StatusCode.NOT_FOUND))
    assert (code_of(status), status.message) == (grpc.StatusCode.NOT_FOUND, "text of the callee")


def test_downstream_details_that_contradict_the_code_are_not_passed_on() -> None:
    status = status_of(downstream(grpc.StatusCode.NOT_FOUND, Status(code=0, message="fine")))
    assert code_of(status) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DATA_LOSS,
    ],
)
def test_a_fault_between_services_is_internal_and_says_nothing(code: grpc.StatusCode) -> None:
    error = downstream(code)
    assert status_of(error).message == "internal error"
    assert not is_expected(error)


def test_an_unreachable_service_is_named_and_worth_a_retry() -> None:
    error = downstream(grpc.StatusCode.UNAVAILABLE)
    error.service = "EmbeddingService"  # type: ignore[attr-defined]
    status = status_of(error)
    assert (code_of(status), status.message) == (grpc.StatusCode.UNAVAILABLE, "EmbeddingService is unavailable")
    assert retry_after_s(status) == 1.0


def test_a_group_of_expected_errors_is_expected_and_one_surprise_makes_it_internal() -> None:
    stale, defect = EtagMismatch("etag: is stale"), RuntimeError("defect")
    assert code_of(status_of(ExceptionGroup("", [stale]))) is grpc.StatusCode.ABORTED
    assert code_of(status_of(ExceptionGroup("", [stale, defect]))) is grpc.StatusCode.INTERNAL
    assert not is_expected(ExceptionGroup("", [stale, ExceptionGroup("", [defect])]))


@pytest.mark.parametrize("letter", ["x", "é", "語", "\ud800"])
def test_a_status_always_fits_into_the_trailers(letter: str) -> None:
    long = letter * 100_000
    error = TooManyRequests(long, violations=[Violation(long, long)] * 1000, retry_after_s=1, a=long, b=long)
    status = status_of(error)
    assert len(status.SerializeToString()) * 4 / 3 + len(quote(status.message)) < 8000
