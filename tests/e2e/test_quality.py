"""Hybrid search against exact search computed apart from it: same vectors, same texts, BM25 by another library."""

import math
import re
from collections import defaultdict

import bm25s
import numpy as np
import pytest
import snowballstemmer
from numpy.typing import NDArray

from ragweave import Client
from ragweave.cli.demo import COLLECTION, documents
from ragweave.v1 import chunk_pb2, document_service_pb2, embedding_service_pb2
from tests.e2e.stack import Mesh
from tests.labelled import QUESTIONS

K = 60
DEPTH = 10


@pytest.mark.timeout(600)
def test_hybrid_search_is_as_good_as_exact_search_fused_with_bm25(mesh: Mesh) -> None:
    with mesh.client() as client:
        chunks = [chunk for each in documents() for chunk in _chunks(client, str(each["document_id"]))]
        names = [chunk.name for chunk in chunks]
        texts = [f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text for chunk in chunks]
        vectors, queries = _embed(client, texts), _embed(client, list(QUESTIONS))
        words = _words(texts)
        bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        bm25.index(words, show_progress=False)
        ours, theirs = [], []
        for (question, right), query in zip(QUESTIONS.items(), queries, strict=True):
            relevant = {name for name in names if name.split("/")[3] in right}
            hits = client.search(question, COLLECTION, top_k=DEPTH).hits
            ours.append(_ndcg([hit.chunk for hit in hits], relevant))
            (terms,) = _words([question])
            sparse = bm25.get_scores([t for t in terms if t in bm25.vocab_dict]) if terms else np.zeros(len(names))
            theirs.append(_ndcg(_fused(names, vectors @ query, sparse), relevant))
    print(f"nDCG@{DEPTH}: mesh {np.mean(ours):.4f}, computed apart {np.mean(theirs):.4f}")
    assert np.mean(ours) >= np.mean(theirs) - 0.005


def _fused(names: list[str], dense: NDArray[np.float32], sparse: NDArray[np.float32]) -> list[str]:
    """Reciprocal rank fusion of both whole rankings; chunks without a common word have no sparse rank."""
    scores: dict[str, float] = defaultdict(float)
    for rank, at in enumerate(np.argsort(-dense, kind="stable"), 1):
        scores[names[at]] += 1 / (K + rank)
    for rank, at in enumerate(np.argsort(-sparse, kind="stable"), 1):
        if sparse[at] > 0:
            scores[names[at]] += 1 / (K + rank)
    return sorted(scores, key=lambda name: -scores[name])[:DEPTH]


def _ndcg(found: list[str], relevant: set[str]) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, name in enumerate(found, 1) if name in relevant)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(DEPTH, len(relevant)) + 1))


def _words(texts: list[str]) -> list[list[str]]:
    stemmer = snowballstemmer.stemmer("english")
    stop = set(bm25s.stopwords.STOPWORDS_EN)
    return [
        stemmer.stemWords([w for w in re.findall(r"\b\w\w+\b", text.lower()) if w not in stop and w.strip("_")])
        for text in texts
    ]


def _embed(client: Client, texts: list[str]) -> NDArray[np.float32]:
    made = []
    for at in range(0, len(texts), 64):
        answer = client.embedding.Embed(embedding_service_pb2.EmbedRequest(texts=texts[at : at + 64]))
        made += [each.values for each in answer.embeddings]
    return np.array(made, np.float32)


def _chunks(client: Client, document: str) -> list[chunk_pb2.Chunk]:
    request = document_service_pb2.ListChunksRequest(
        parent=f"collections/{COLLECTION}/documents/{document}", page_size=100
    )
    found: list[chunk_pb2.Chunk] = []
    while True:
        page = client.documents.ListChunks(request)
        found += page.chunks
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
