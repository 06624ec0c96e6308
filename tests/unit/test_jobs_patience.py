"""Waiting for what does not answer, and what errors mean."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from services.jobs.adapters.diagnosis import diagnose
from services.jobs.patience import Patience
from services.mesh.errors import DependencyUnavailable, TextTooLong, TooManyRequests


def failing(*errors: Exception) -> Callable[[], object]:
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


async def test_a_call_is_repeated_while_its_service_cannot_be_reached() -> None:
    call = failing(DependencyUnavailable("down"), TooManyRequests("full"))
    assert await Patience(diagnose, 10)(call) == "done"  # type: ignore[arg-type]


async def test_what_waiting_cannot_mend_is_raised_at_once() -> None:
    for error in (TextTooLong("long"), RuntimeError("a defect")):
        with pytest.raises(type(error)):
            await Patience(diagnose, 10)(failing(error))  # type: ignore[arg-type]


async def test_patience_ends() -> None:
    with pytest.raises(DependencyUnavailable):
        await Patience(diagnose, 0)(failing(*[DependencyUnavailable("down")] * 9))  # type: ignore[arg-type]


async def test_waiting_can_be_cancelled() -> None:
    waiting = asyncio.create_task(Patience(diagnose, 60)(failing(*[DependencyUnavailable("down")] * 999)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "from the wire")


def test_errors_of_services_and_of_our_own_are_told_apart_by_what_helps() -> None:
    assert diagnose(rpc_error(grpc.StatusCode.UNAVAILABLE)).unreachable
    assert diagnose(rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED)).transient
    refused = diagnose(rpc_error(grpc.StatusCode.INVALID_ARGUMENT))
    assert (refused.code, refused.transient, refused.message) == (3, False, "from the wire")
    long = diagnose(TextTooLong("a text is too long"))
    assert (long.code, long.reason, long.message, long.transient) == (3, "TEXT_TOO_LONG", "a text is too long", False)


def test_the_text_of_an_unexpected_error_is_shown_to_nobody() -> None:
    failure = diagnose(RuntimeError("secret"))
    assert (failure.reason, failure.message, failure.transient) == ("INTERNAL", "internal error", True)


def test_of_errors_that_came_together_the_first_counts() -> None:
    group = ExceptionGroup("both", [TextTooLong("long"), DependencyUnavailable("down")])
    assert diagnose(group).reason == "TEXT_TOO_LONG"
