"""What the benchmark of growth stands on: chunks that are the same each time, and a page that tells what came of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import page, scale_page
from benchmarks.results import Run
from benchmarks.scale import Kept, Size
from benchmarks.scale_corpus import CHUNKS_A_DOCUMENT, DIMENSION, FILTERS, Corpus
from benchmarks.scale_edge import Copied, Memory, disk_bytes
from benchmarks.scale_mesh import Whole
from benchmarks.scale_store import Growth, Searched, Spread
from services.retrieval.sparse import document_vector, encoder_for

RUN = Run("python -m benchmarks.scale", machine="two cores", versions={"Python": "3.11"}, commit="abc")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(seed=1, vocabulary=2000)


def test_a_document_is_the_same_whenever_it_is_made(corpus: Corpus) -> None:
    assert corpus.document(7) == corpus.document(7) != corpus.document(8)
    assert list(corpus.questions(3, 10)) == list(corpus.questions(3, 10))


def test_its_chunks_have_the_terms_of_their_texts_and_lie_nearer_to_one_another_than_to_others(corpus: Corpus) -> None:
    documents = [corpus.document(number) for number in range(30)]
    encoder = encoder_for("en")
    for each in documents[0]:
        counts = encoder.counts(each.chunk.searched_text)
        assert (each.sparse, each.length) == (document_vector(counts, each.scale), counts.total())
    vectors = np.array([np.frombuffer(each.vector, "<f4") for chunks in documents for each in chunks])
    assert vectors.shape == (30 * CHUNKS_A_DOCUMENT, DIMENSION)
    cosines = vectors @ vectors.T
    assert cosines.diagonal() == pytest.approx(1, abs=1e-5)
    own = np.mean([cosines[at : at + 10, at : at + 10].mean() for at in range(0, len(vectors), CHUNKS_A_DOCUMENT)])
    assert own > 0.6 > 0.3 > np.median(cosines)


def spread(p95_ms: float) -> Spread:
    return Spread(100, p95_ms / 2, p95_ms, p95_ms * 2)


def size(chunks: int, p95_ms: float) -> Size:
    searched = [
        Searched(mode, narrowed, spread(p95_ms), 1.0, 0.99 if mode == "dense" else None)
        for narrowed in FILTERS
        for mode in ("dense", "sparse", "hybrid")
    ]
    growth = Growth(1000.0, spread(1), 2.0, spread(3), None)
    kept = Kept(Memory(2**20, 2**21), Memory(2**22, 2**22), {"graph": 41 * chunks}, Copied(1.0, 20.0), 0.5)
    return Size(chunks, growth, searched, 200.0, spread(40), kept)


def test_the_page_tells_each_size_and_whether_the_bars_are_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scaling.md").write_text(f"# Scaling\n{page.BEGIN}\n{page.END}\nthe rest\n")
    sizes = [size(1000, 4.0), size(100_000, 11.0), size(1_000_000, 26.0)]
    scale_page.record(tmp_path, "edge", RUN, sizes)
    whole = Whole(100_000, 300.0, 9.0, spread(8), spread(5), spread(30), {"retrieval": 2**29, "envoy": 2**30})
    scale_page.record(tmp_path, "mesh", RUN, [whole])
    told = (tmp_path / "scaling.md").read_text()
    assert told.startswith("# Scaling\n") and told.endswith("the rest\n")
    assert "| hybrid, filter: none | 2.00, 4.00 (1.00) | 5.50, 11.00 (1.00) | 13.00, 26.00 (1.00) |" in told
    assert "| graph | 41 | 41 | 41 |" in told
    assert "2.75x (4.00 ms, 11.00 ms) | yes | edge |" in told
    assert "26.00 ms | **no** | edge |" in told
    assert "1,536 MiB | **no** | mesh |" in told
    for kind in ("edge", "mesh"):
        assert f"(scaling/{kind}.svg)" in told
        assert (tmp_path / "scaling" / f"{kind}.svg").read_text().count("<svg")
    scale_page.record(tmp_path, "mesh", RUN, [replace(whole, memory={"retrieval": 2**29})])
    assert "512 MiB | yes | mesh |" in (tmp_path / "scaling.md").read_text()
    assert "bar 7: 100,000 chunks under 1.2 GiB in the whole mesh: 512 MiB: met" in capsys.readouterr().out


def test_the_disk_is_told_by_what_files_hold(tmp_path: Path) -> None:
    for name in ("g0/wal/open-1", "g0/segments/s/vector_index-dense/links", "g0/segments/s/id_tracker"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 5000)
    found = disk_bytes(tmp_path)
    assert {"log of writes", "graph", "the rest"} == set(found)
    assert found["graph"] >= 5000
