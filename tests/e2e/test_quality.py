"""Every mode against exact search computed apart from it: same vectors, same texts, BM25 by another library."""

from collections import defaultdict
from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray

from ragweave import Client
from ragweave.cli.demo import COLLECTION, documents
from ragweave.v1 import embedding_service_pb2
from ragweave.v1.search_pb2 import SearchRequest
from tests.e2e.durability import chunks_of
from tests.e2e.stack import Mesh
from tests.exact_search import TOP, Bm25, ExactSearch, ndcg
from tests.labelled import QUESTIONS

TOLERANCE = 0.005
MODES = (SearchRequest.HYBRID, SearchRequest.DENSE, SearchRequest.SPARSE)


@pytest.mark.timeout(600)
def test_every_mode_is_as_good_as_exact_search_and_bm25(mesh: Mesh) -> None:
    ours, theirs = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with mesh.client() as client:
        parents = [f"collections/{COLLECTION}/documents/{each['document_id']}" for each in documents()]
        chunks = [chunk for parent in parents for chunk in chunks_of(client, parent)]
        names = [chunk.name for chunk in chunks]
        texts = [f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text for chunk in chunks]
        questions = _embed(client, list(QUESTIONS))
        apart = ExactSearch(texts, _embed(client, texts), Bm25())
        for (question, right), vector in zip(QUESTIONS.items(), questions, strict=True):
            relevant = {name for name in names if name.split("/")[3] in right}
            wanted = (apart.hybrid(question, vector), apart.dense(vector), apart.sparse(question))
            for number, places in zip(MODES, wanted, strict=True):
                mode = SearchRequest.Mode.Name(number)
                hits = client.search(question, COLLECTION, mode=mode).hits
                ours[mode].append(ndcg([hit.chunk for hit in hits], relevant))
                theirs[mode].append(ndcg([names[place] for place in places], relevant))
    means = {mode: (round(fmean(ours[mode]), 4), round(fmean(theirs[mode]), 4)) for mode in ours}
    print(f"nDCG@{TOP}, mesh and computed apart: {means}")
    for mode, (reached, wanted_mean) in means.items():
        assert reached >= wanted_mean - TOLERANCE, mode


def _embed(client: Client, texts: list[str]) -> NDArray[np.float32]:
    made = []
    for at in range(0, len(texts), 64):
        answer = client.embedding.Embed(embedding_service_pb2.EmbedRequest(texts=texts[at : at + 64]))
        made += [each.values for each in answer.embeddings]
    return np.array(made, np.float32)
