"""What a query log must do, in memory and in a real Redis, and how little it matters to those who search."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.mesh.errors import DependencyUnavailable
from services.retrieval.adapters import redis_questions
from services.retrieval.adapters.redis_questions import RedisQuestions
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Question, Questions
from tests.jobs_store import Store, store_in
from tests.retrieval_fakes import FakeQuestions

DOCS, OTHERS = IndexId("uid-docs"), IndexId("uid-others")


def question(text: str, *indexes: IndexId, principals: tuple[str, ...] = ("user:ann",)) -> Question:
    return Question(text.encode() + b"\0\xff", indexes or (DOCS,), principals)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("questions")) as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
async def questions(request: pytest.FixtureRequest) -> AsyncIterator[Questions]:
    if request.param == "memory":
        yield FakeQuestions()
        return
    async with RedisQuestions.open(request.getfixturevalue("server").url, keep_s=3600) as made:
        await made._redis.flushall()
        yield made


async def test_the_most_frequent_come_first_however_they_were_counted(questions: Questions) -> None:
    foxes, dogs, seals = question("foxes"), question("dogs", DOCS, OTHERS), question("seals", OTHERS, principals=())
    await questions.add({"acme": {foxes: 2, dogs: 1}, "globex": {seals: 9}})
    await questions.add({"acme": {dogs: 4, seals: 1}})
    assert await questions.most_asked("acme", None, 10) == [dogs, foxes, seals]
    assert await questions.most_asked("acme", None, 2) == [dogs, foxes]
    assert await questions.most_asked("acme", OTHERS, 10) == [dogs, seals]
    assert await questions.most_asked("nobody", None, 10) == []


async def test_callers_with_other_rights_have_questions_of_their_own(questions: Questions) -> None:
    of_ann, of_bob = question("foxes"), question("foxes", principals=("group:staff", "user:bob"))
    await questions.add({"acme": {of_ann: 1, of_bob: 2}})
    assert await questions.most_asked("acme", None, 10) == [of_bob, of_ann]


async def test_what_is_dropped_is_of_the_tenant_and_the_index_alone(questions: Questions) -> None:
    foxes, dogs, seals = question("foxes"), question("dogs", DOCS, OTHERS), question("seals", OTHERS)
    await questions.add({"acme": {foxes: 3, dogs: 2, seals: 1}, "globex": {seals: 1}})
    assert await questions.drop("acme", DOCS) == 2
    assert await questions.most_asked("acme", None, 10) == [seals]
    assert await questions.drop("acme", None) == 1 and await questions.drop("acme", None) == 0
    assert await questions.most_asked("acme", None, 10) == []
    assert await questions.most_asked("globex", None, 10) == [seals]


async def test_questions_of_several_hours_count_together_and_end_by_themselves(
    server: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RedisQuestions.open(server.url, keep_s=3600) as log:
        await log._redis.flushall()
        now_s, _ = await log._redis.time()
        for before_s in (1500, 0):
            monkeypatch.setattr(redis_questions.time, "time", lambda at=now_s - before_s: at)
            await log.add({"acme": {question("foxes"): 1, question("dogs"): 1 + before_s // 1000}})
        assert await log.most_asked("acme", None, 10) == [question("dogs"), question("foxes")]
        names = await log._redis.keys()
        assert len(names) == 2 and not any(b"acme" in each for each in names)
        left_s = sorted([await log._redis.ttl(each) for each in names])
        assert 1500 <= left_s[0] <= 2100 and 3000 <= left_s[1] <= 3600, "counted from the begin of what a set holds"
        assert await log.drop("acme", None) == 2 and await log._redis.keys() == []


async def test_the_rarest_make_room(server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_questions, "_KEPT", 3)
    async with RedisQuestions.open(server.url, keep_s=3600) as log:
        await log._redis.flushall()
        await log.add({"acme": {question(str(number)): number for number in range(1, 9)}})
        assert await log.most_asked("acme", None, 10) == [question("8"), question("7"), question("6")]


async def test_a_store_that_is_away_loses_what_is_counted_and_tells_who_asks(tmp_path: Path) -> None:
    async with RedisQuestions.open(f"unix://{tmp_path}/none.sock", keep_s=60) as log:
        await log.add({"acme": {question("foxes"): 1}})
        with pytest.raises(DependencyUnavailable, match="the query log does not answer"):
            await log.most_asked("acme", None, 1)
        with pytest.raises(DependencyUnavailable):
            await log.drop("acme", None)
