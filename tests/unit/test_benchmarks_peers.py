"""What the benchmark beside peers is made of: the corpus, the query log, the comparison of answers, the bars."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import Measured, Sample
from benchmarks.peers import ours, suite
from benchmarks.peers.corpus import Chunk, TooLittleText, chunks, digest, passages, words
from benchmarks.peers.doors import TOP, Hit
from benchmarks.peers.exact import Exact
from benchmarks.peers.questions import ZipfLog
from benchmarks.peers.servers import CHROMA, HAYSTACK, pinned
from benchmarks.peers.suite import Found
from benchmarks.plan import Plan
from benchmarks.profile import functions, processes
from benchmarks.rig import Rig


def test_the_corpus_is_the_same_each_time_and_no_text_is_in_it_twice() -> None:
    first, second = chunks(50), chunks(50)
    assert first == second and digest(first) == digest(second) != digest(first[:-1])
    assert len({chunk.text for chunk in first}) == len({chunk.id for chunk in first}) == 50
    assert all(150 <= len(chunk.text) <= 500 for chunk in first)


def test_a_corpus_of_more_chunks_than_there_is_text_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.corpus._texts", lambda: iter(["what a line says " * 10]))
    assert len(chunks(1)) == 1
    with pytest.raises(TooLittleText, match="2 chunks are asked for, and the texts make 1"):
        chunks(2)


def test_a_passage_is_whole_lines_of_prose() -> None:
    line = " ".join(["word"] * 40)
    assert list(passages(f"{line}\n\t{line}\n{line}")) == [f"{line} {line}", line]
    assert list(passages(f"{'x' * 600}\n{line}\n{'y' * 600}")) == [line], "a line that fits nowhere ends a passage"
    assert list(passages("too short")) == []
    assert list(passages("| 1 | 2 |\n" * 40)) == [], "a table is no prose"


def test_questions_are_of_words_that_chunks_have() -> None:
    assert words([Chunk("a", "The quick brown_fox jumps"), Chunk("b", "over jumps")]) == ["jumps", "over", "quick"]


def test_a_log_goes_on_from_round_to_round_and_is_another_for_each_contestant() -> None:
    vocabulary = [f"word{number}" for number in range(100)]
    log, same = ZipfLog(vocabulary, 7), ZipfLog(vocabulary, 7)
    parts = [*islice(log("ours", 1), 600), *islice(log("ours", 2), 1400)]
    assert parts == list(islice(same("ours", 1), 2000))
    assert set(parts).isdisjoint(islice(log("theirs", 1), 2000))


def test_a_log_tells_how_much_of_it_repeats_and_follows_zipfs_law() -> None:
    log = ZipfLog([f"word{number}" for number in range(100)], 7)
    asked = list(islice(log("ours", 1), 20_000))
    length, repeated = log.asked("ours")
    assert (length, repeated) == (20_000, pytest.approx(1 - len(set(asked)) / 20_000))
    # Of rank 1 is 1 / H(1000) = 13.4 % of all, of rank 2 half as much.
    (_, first), (_, second) = Counter(asked).most_common(2)
    assert first / 20_000 == pytest.approx(0.134, abs=0.02) and second / first == pytest.approx(0.5, abs=0.1)


class FakeDoor:
    """Answers by the same hits always."""

    name = "fake"

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = list(hits)

    async def ask(self, questions: Sequence[str]) -> list[tuple[int, list[Hit]]]:
        return [(1000, self._hits) for _ in questions]


class FakeExact(Exact):
    """Finds the first chunks nearest, whatever is asked."""

    async def nearest(self, questions: Sequence[str], count: int) -> list[set[str]]:
        return [{chunk.id for chunk in self.chunks[:count]} for _ in questions]


HELD = [Chunk(f"chunk-{number}", f"text {number}") for number in range(20)]
EXACT = FakeExact(HELD, np.zeros((20, 2), np.float32))


async def test_answers_are_compared_with_exact_search() -> None:
    found = await Found.by(FakeDoor([Hit(chunk.id, chunk.text, 0.5) for chunk in HELD[2:12]]), EXACT, ["a", "b"])
    assert (found.exact, found.length) == (0.8, 1000)


@pytest.mark.parametrize(
    "hits",
    [
        [Hit(chunk.id, chunk.text, 0.5) for chunk in HELD[: TOP - 1]],
        [Hit(chunk.id, "another text", 0.5) for chunk in HELD[:TOP]],
        [Hit(f"{chunk.id}-x", chunk.text, 0.5) for chunk in HELD[:TOP]],
        [Hit(HELD[0].id, HELD[0].text, 0.5)] * TOP,
    ],
    ids=["too few", "another text", "another chunk", "the same ten times"],
)
async def test_nobody_wins_by_answers_that_are_none(hits: Sequence[Hit]) -> None:
    with pytest.raises(RuntimeError, match="fake answers 'a' by"):
        await Found.by(FakeDoor(hits), EXACT, ["a"])


def test_bars_are_held_against_each_peer() -> None:
    zipf = _measured({"ours, dense": (200, 50), "ours, hybrid": (199, 51), CHROMA: (100, 100), HAYSTACK: (90, 200)})
    never = _measured({"ours, dense": (120, 50), "ours, hybrid": (119, 51), CHROMA: (100, 100), HAYSTACK: (130, 200)})
    met = {bar.asked: bar.met for bar in suite.bars(zipf, never)}
    assert len(met) == 2 * 2 * 3 == len(ours.MODES) * 6
    assert met == {
        "ours, dense, against Chroma, Zipf-shaped log: 2x its requests a second": True,
        "ours, dense, against Chroma, Zipf-shaped log: half its p95": True,
        "ours, dense, against Chroma, never repeated: 1.2x its requests a second": True,
        "ours, hybrid, against Chroma, Zipf-shaped log: 2x its requests a second": False,
        "ours, hybrid, against Chroma, Zipf-shaped log: half its p95": False,
        "ours, hybrid, against Chroma, never repeated: 1.2x its requests a second": False,
        "ours, dense, against Haystack, Zipf-shaped log: 2x its requests a second": True,
        "ours, dense, against Haystack, Zipf-shaped log: half its p95": True,
        "ours, dense, against Haystack, never repeated: 1.2x its requests a second": False,
        "ours, hybrid, against Haystack, Zipf-shaped log: 2x its requests a second": True,
        "ours, hybrid, against Haystack, Zipf-shaped log: half its p95": True,
        "ours, hybrid, against Haystack, never repeated: 1.2x its requests a second": False,
    }


def _measured(figures: dict[str, tuple[float, float]]) -> Measured:
    samples = {
        name: [Sample(per_s=per_s, p50_ms=1, p95_ms=p95_ms, p99_ms=p95_ms, answers=1, errors=0)]
        for name, (per_s, p95_ms) in figures.items()
    }
    return Measured("any", 16, 1.0, dict.fromkeys(ours.MODES, CHROMA), samples)


async def test_without_the_peers_the_bar_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.servers.ENVIRONMENTS", tmp_path)
    outcome = await suite.run(Rig(tmp_path), Plan(rounds=1, seconds=1.0))
    assert [(bar.met, bar.measured) for bar in outcome.bars] == [
        (None, "Chroma is not installed: `make peers` does that")
    ]


def test_versions_of_peers_are_those_that_are_installed() -> None:
    assert pinned(CHROMA, "chromadb").startswith("chromadb 1.")
    assert len(pinned(HAYSTACK, "haystack-ai", "hayhooks", "faiss-cpu").split(", ")) == 3


def test_a_profile_tells_each_process_share_of_the_time() -> None:
    table = processes({"envoy": 1.0, "embedding": 3.0, "redis": 0.001}, seconds=4.0, answers=1000)
    assert table.rows == [["embedding", "0.75", "75.0%", "3,000"], ["envoy", "0.25", "25.0%", "1,000"]]


def test_a_profile_tells_what_a_process_is_at_work_in_and_for_whom() -> None:
    model = "run (threading.py);_vectors (services/embedding/adapters/onnx.py);run (onnxruntime/session.py)"
    own = "run (threading.py);_vectors (services/embedding/adapters/onnx.py)"
    table = functions(
        {"embedding": [f"{model} 60", f"other (a.py);{model} 10", f"{own} 25", "dumps (json/__init__.py) 5"]}
    )
    assert table.rows == [
        ["embedding", "run (onnxruntime/session.py)", "_vectors (services/embedding/adapters/onnx.py)", "70.0%"],
        ["embedding", "_vectors (services/embedding/adapters/onnx.py)", "", "25.0%"],
        ["embedding", "dumps (json/__init__.py)", "", "5.0%"],
    ]
