"""Ingest of the mesh against the bare model on the same chunks, in one run: `python -m benchmarks.ingest [--rounds N]`.

Each round imports a corpus nobody has embedded before through the edge, reads its chunks back, and gives what was
embedded to a bare onnxruntime session (tokenizer and model, no mesh), sorted by length, in each of the thread layouts
that make sense on two cores; the fastest counts.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from ragweave import Client
from ragweave.cli.demo import documents
from ragweave.v1 import document_service_pb2, job_pb2
from services.embedding.adapters.onnx import ModelFiles
from tests.e2e.stack import Mesh


def main() -> None:
    """Prints a table and the median ratio."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    rounds = arguments.parse_args().rounds
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            with mesh.client() as client:
                for number in range(1, rounds + 1):
                    chunks, seconds, texts = _through_the_mesh(client, number)
                    bare = _bare(texts)
                    ratio = chunks / seconds / bare
                    ratios.append(ratio)
                    rates = f"mesh {chunks / seconds:.1f}/s, bare {bare:.1f}/s"
                    print(f"round {number}: {chunks} chunks, {rates}: {ratio:.1%}")
        finally:
            mesh.stop()
    print(f"median of {rounds}: {statistics.median(ratios):.1%} of the bare model")


def _through_the_mesh(client: Client, number: int) -> tuple[int, float, list[str]]:
    """Chunks written, seconds from the request to the job's end, and the texts that were embedded."""
    collection = f"round-{number}"
    client.create_collection(collection)
    corpus = documents()
    for document in corpus:  # every paragraph says its round, so that no chunk is in the embedding cache
        document["text"] = document["text"].replace("\n\n", f"\n\n({number}) ")
    began = time.perf_counter()
    ended = client.wait(client.import_texts(collection, corpus).name)
    seconds = time.perf_counter() - began
    assert ended.state == job_pb2.Job.SUCCEEDED, ended
    texts = []
    for document in corpus:
        request = document_service_pb2.ListChunksRequest(
            parent=f"collections/{collection}/documents/{document['document_id']}", page_size=100
        )
        while True:
            page = client.documents.ListChunks(request)
            texts += [f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text for chunk in page.chunks]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    return ended.progress.chunks, seconds, texts


def _bare(texts: list[str]) -> float:
    """Texts a second of the tokenizer and the model alone, in the faster of the layouts for two cores."""
    files = ModelFiles.packaged()
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)

    def embed(session: onnxruntime.InferenceSession, text: str) -> None:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (hidden,) = session.run(["last_hidden_state"], feed)
        pooled = hidden[0].mean(axis=0)
        pooled / np.linalg.norm(pooled)

    ordered = sorted(texts, key=len)
    fastest = 0.0
    for workers, threads in ((1, 2), (2, 1)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(files.weights, options, providers=["CPUExecutionProvider"])
        embed(session, ordered[-1])
        with ThreadPoolExecutor(workers) as pool:
            began = time.perf_counter()
            list(pool.map(partial(embed, session), ordered))
            fastest = max(fastest, len(texts) / (time.perf_counter() - began))
    return fastest


if __name__ == "__main__":
    main()
