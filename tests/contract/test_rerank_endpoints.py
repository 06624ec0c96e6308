"""What an endpoint that fails, lies or is slow does to those who ask it."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from services.embedding.adapters.endpoint import Endpoint
from services.embedding.adapters.rerank_endpoints import CohereReranker, TeiReranker
from services.embedding.models import RerankerSpec
from services.embedding.reranker import Reranking, rerank
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable
from tests.ports import free_port
from tests.rerank_server import RerankServer, rerank_server

KEY = "sw0rdfish"
TEXTS = ["the dog sleeps", "the cat eats fish"]


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with rerank_server() as server:
        yield server


@pytest.fixture
async def cohere(server: RerankServer) -> AsyncIterator[CohereReranker]:
    async with Endpoint.open(f"{server.url}/cohere/rerank", api_key=KEY) as endpoint:
        yield CohereReranker(RerankerSpec("remote", "Remote"), endpoint, "vendor/model-1")


@pytest.fixture
async def tei(server: RerankServer) -> AsyncIterator[TeiReranker]:
    async with Endpoint.open(f"{server.url}/tei/rerank") as endpoint:
        yield TeiReranker(RerankerSpec("remote", "Remote"), endpoint)


async def asked(reranker: CohereReranker | TeiReranker, *, timeout_s: float | None = 30) -> Reranking:
    return await rerank(reranker, "acme", "who eats fish", TEXTS, timeout_s=timeout_s)


async def test_it_is_asked_as_cohere_wants_it(server: RerankServer, cohere: CohereReranker) -> None:
    found = await asked(cohere)
    question = {"model": "vendor/model-1", "query": "who eats fish", "documents": TEXTS, "top_n": 2}
    assert server.asked == [question]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert [each.index for each in found.results] == [1, 0]
    assert found.total_tokens == 7


async def test_tokens_are_read_where_cohere_tells_them(server: RerankServer, cohere: CohereReranker) -> None:
    results = [{"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.2}]
    server.answers.append(json.dumps({"results": results, "meta": {"tokens": {"input_tokens": 11}}}).encode())
    assert (await asked(cohere)).total_tokens == 11


async def test_it_is_asked_as_tei_wants_it_and_without_a_key_where_there_is_none(
    server: RerankServer, tei: TeiReranker
) -> None:
    found = await asked(tei)
    assert server.asked == [{"query": "who eats fish", "texts": TEXTS, "truncate": True}]
    assert "authorization" not in server.headers[0]
    assert [each.index for each in found.results] == [1, 0]


async def test_connections_are_used_again(server: RerankServer, cohere: CohereReranker) -> None:
    for _ in range(3):
        await asked(cohere)
    assert server.connections == 1


@pytest.mark.parametrize(
    "failures", [[(502, {})], [(503, {})], [(429, {"retry-after": "0"})]], ids=["502", "503", "429"]
)
async def test_what_passes_is_waited_for(
    server: RerankServer, cohere: CohereReranker, failures: list[tuple[int, dict[str, str]]]
) -> None:
    server.failures += failures
    assert (await asked(cohere)).results
    assert len(server.asked) == len(failures) + 1


async def test_what_does_not_pass_in_time_is_told_with_when_to_come_again(
    server: RerankServer, cohere: CohereReranker
) -> None:
    server.failures.append((429, {"retry-after": "3600"}))
    with pytest.raises(DependencyUnavailable, match=rf"^{server.host} answered 429$") as caught:
        await asked(cohere)
    assert caught.value.retry_after_s == 3600
    assert len(server.asked) == 1


async def test_tries_come_to_an_end(server: RerankServer, cohere: CohereReranker) -> None:
    server.failures += [(503, {"retry-after": "0"})] * 9
    with pytest.raises(DependencyUnavailable, match=rf"^{server.host} answered 503$"):
        await asked(cohere)
    assert len(server.asked) == 2


async def test_an_endpoint_that_keeps_failing_is_left_alone(server: RerankServer, cohere: CohereReranker) -> None:
    server.failures += [(503, {"retry-after": "0"})] * 9
    for _ in range(3):
        with pytest.raises(DependencyUnavailable):
            await asked(cohere)
    with pytest.raises(DependencyUnavailable, match=rf"^endpoint {server.host} is unavailable$"):
        await asked(cohere)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not take our API key"),
        (403, "does not take our API key"),
        (400, "refuses to rerank: it answered 400"),
        (404, "refuses to rerank: it answered 404"),
        (500, "answered 500"),
        (307, "answered 307"),
    ],
)
async def test_what_another_try_will_not_mend_is_told_at_once(
    server: RerankServer, cohere: CohereReranker, status: int, said: str
) -> None:
    server.failures.append((status, {"location": f"{server.url}/elsewhere"}))
    with pytest.raises(DependencyUnavailable, match=f"{server.host} {said}") as caught:
        await asked(cohere)
    assert len(server.asked) == 1
    assert KEY not in str(caught.value)


async def test_an_endpoint_that_is_not_there_is_named_by_its_host() -> None:
    port = free_port()
    async with Endpoint.open(f"http://127.0.0.1:{port}/secret-path/rerank", api_key=KEY) as endpoint:
        reranker = CohereReranker(RerankerSpec("remote", "Remote"), endpoint, "m")
        with pytest.raises(DependencyUnavailable) as caught:
            await asked(reranker)
    assert caught.value.message == f"127.0.0.1:{port} cannot be connected to"
    assert caught.value.retry_after_s


async def test_an_endpoint_that_does_not_answer_costs_no_more_than_the_callers_time(
    server: RerankServer, cohere: CohereReranker
) -> None:
    server.silent.set()
    with pytest.raises(DeadlineExceeded, match=f"{server.host} did not answer within 0.18 s"):
        await asked(cohere, timeout_s=0.2)


async def test_time_that_ran_out_between_tries_is_laid_to_what_failed_before(
    server: RerankServer, cohere: CohereReranker
) -> None:
    server.failures += [(503, {})] * 3
    with pytest.raises(DependencyUnavailable, match="answered 503"):
        await asked(cohere, timeout_s=0.1)


def results(*pairs: tuple[object, object]) -> bytes:
    return json.dumps({"results": [{"index": index, "relevance_score": score} for index, score in pairs]}).encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no results"),
        (b'{"results": {}}', "has no results"),
        (b'{"results": ["text"]}', "has a result without index or relevance_score"),
        (b'{"results": [{"index": 0}]}', "has a result without index or relevance_score"),
        (results((0, 1.0)), "has no result for index 1"),
        (results(), "has no result for index 0"),
        (results((0, 1.0), (0, 0.5)), "has index 0 twice"),
        (results((0, 1.0), (2, 0.5)), "has index 2 for 2 texts"),
        (results((0, 1.0), (-1, 0.5)), "has index -1 for 2 texts"),
        (results((0, 1.0), (10**400, 0.5)), "has index 10000000000000000000 for 2 texts"),
        (results(("0", 1.0), (1, 0.5)), "has a result without index"),
        (results((True, 1.0), (0, 0.5)), "has a result without index"),
        (results((0, "1.0"), (1, 0.5)), "has a result without index or relevance_score"),
        (results((0, 1.0), (1, float("nan"))), "not a finite number"),
        (results((0, 1.0), (1, float("inf"))), "not a finite number"),
        (results((0, 1.0), (1, 10**400)), "not a finite number"),
    ],
)
async def test_an_answer_that_cannot_be_right_is_refused(
    server: RerankServer, cohere: CohereReranker, answer: bytes, said: str
) -> None:
    server.answers.append(answer)
    with pytest.raises(DependencyUnavailable, match=said):
        await asked(cohere)


async def test_an_answer_of_tei_that_is_no_list_is_refused(server: RerankServer, tei: TeiReranker) -> None:
    server.answers.append(b'{"results": []}')
    with pytest.raises(DependencyUnavailable, match=f"the answer of {server.host} is not a list"):
        await asked(tei)


async def test_an_answer_without_end_is_not_read_to_its_end(
    server: RerankServer, cohere: CohereReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.embedding.adapters.endpoint._MOST_BYTES", 1000)
    server.answers.append(b" " * 2000)
    with pytest.raises(DependencyUnavailable, match="is longer than 1000 bytes"):
        await asked(cohere)


async def test_a_failing_part_of_a_large_request_fails_it_whole(server: RerankServer, tei: TeiReranker) -> None:
    server.failures.append((500, {}))
    with pytest.raises(DependencyUnavailable, match="answered 500"):
        await rerank(tei, "acme", "who eats fish", [f"text {number}" for number in range(100)])
