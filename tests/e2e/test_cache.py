"""The cache of answers as its callers see it: through the edge, with writes of documents between searches."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.cache import asked_at_once, repeats, replay, writer, zipf_log
from tests.e2e.stack import PREFIX, Mesh

C = "cached"
TENANT = "caching"


class Caching:
    """Calls of one admin of a tenant of its own."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.token = mesh.token(tenant=TENANT)

    def rest(self, verb: str, path: str, body: Any = None) -> Any:
        answer = self.mesh.rest(verb, PREFIX + path, body, token=self.token)
        assert answer.status == 200, answer
        return answer.body

    def search(self, **fields: Any) -> tuple[str, list[str]]:
        """What the cache did, and the texts found."""
        found = self.rest("POST", "/search", {"query": "who eats fish", "collection": C, **fields})
        return found["cache"]["status"], [hit["text"] for hit in found["hits"]]

    def put(self, document: str, text: str) -> None:
        given = {"inline": {"documents": [{"documentId": document, "text": text}]}, "onDuplicate": "REPLACE"}
        job = self.rest("POST", f"/collections/{C}/documents:import", given)["name"]
        with self.mesh.client(tenant=TENANT) as client:
            client.wait(job)


@pytest.fixture
def caching(mesh: Mesh) -> Iterator[Caching]:
    made = Caching(mesh)
    made.rest("POST", f"/collections?collectionId={C}", {})
    yield made
    made.rest("DELETE", f"/collections/{C}?force=true")


def test_answers_are_given_again_until_something_is_written_or_they_are_purged(caching: Caching) -> None:
    caching.put("a", "Seals eat fish.")
    assert caching.search() == ("MISS", ["Seals eat fish."])
    assert caching.search(query=" who eats fish ", topK=10) == ("HIT", ["Seals eat fish."])
    caching.put("a", "Gulls eat fish.")
    assert caching.search() == ("MISS", ["Gulls eat fish."])
    assert caching.search() == ("HIT", ["Gulls eat fish."])
    assert caching.search(cacheControl="BYPASS")[0] == "BYPASSED"
    assert caching.search(cacheControl="REFRESH")[0] == "REFRESHED"
    (entry,) = caching.rest("GET", f"/cache/entries?filter=collection%3D%22{C}%22")["entries"]
    assert (entry["query"], entry["collections"], entry["mode"]) == ("who eats fish", [f"collections/{C}"], "HYBRID")
    stats = caching.rest("GET", "/cache")
    assert (stats["hits"], stats["misses"], stats["hitRate"], stats["entries"]) == ("2", "2", 0.5, 1)
    caching.put("a", "Terns eat fish.")
    # One answer, made once. Its question was spelled in two ways, and is in the log as two where that was written in
    # between, as it is every second.
    warmed = caching.rest("POST", "/cache:warm", {"collection": C})
    assert (warmed["warmed"], warmed["leftOut"]) == (1, 0) and warmed["kept"] in (0, 1), warmed
    assert caching.search() == ("HIT", ["Terns eat fish."])
    purged = caching.rest("POST", "/cache:purge", {"collection": C})
    assert (purged["processEntries"], purged["questions"]) == (1, 1 + warmed["kept"])
    assert caching.rest("GET", "/cache/entries").get("entries", []) == []
    assert caching.search() == ("MISS", ["Terns eat fish."])
    caching.rest("DELETE", f"/collections/{C}/documents/a")
    assert caching.search() == ("MISS", [])


def test_a_query_log_with_writes_in_it_is_answered_from_the_cache_wherever_no_write_lies_between(
    caching: Caching,
) -> None:
    """`make bench-cache`, short: 15 questions by Zipf's law, a write before each 300."""
    questions = [
        f"{animal} {what}" for animal in ("seals", "gulls", "terns") for what in ["eat", "fly", "swim", "dive", "rest"]
    ]
    log = zipf_log(questions, 900, 1.0, random.Random(5))
    with caching.mesh.client(tenant=TENANT) as client:
        done = replay(client, C, log, writer(client, C), 300, callers=4)
        assert len(done.taken_ms["HIT"]) == repeats(log, 300) and done.hit_rate > 0.8
        assert set(done.taken_ms) == {"HIT", "MISS"}


def test_of_a_hundred_who_ask_the_same_at_once_one_is_answered_anew(caching: Caching) -> None:
    caching.put("a", "Seals eat fish.")
    with caching.mesh.client(tenant=TENANT) as client:
        how = asked_at_once(client, C, "who eats fish")
    assert how["MISS"] == 1 and how.total() == 100
