"""Text in, hits out by Chroma: its server takes vectors and leaves the model to its client, which this service is."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import chromadb
from chromadb.config import Settings
from fastapi import FastAPI, Request
from minilm import Corpus, MiniLM
from pydantic import BaseModel

_BATCH = 1000


class Query(BaseModel):
    query: str
    top_k: int = 10


class Hit(BaseModel):
    id: str
    text: str
    score: float


@asynccontextmanager
async def _opened(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.HttpClient("127.0.0.1", int(os.environ["CHROMA_PORT"]), settings=settings)
    collection = client.create_collection(
        "chunks", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    corpus = Corpus.from_environment()
    for at in range(0, len(corpus.ids), _BATCH):
        part = slice(at, at + _BATCH)
        collection.add(corpus.ids[part], corpus.vectors[part], documents=corpus.texts[part])
    assert collection.count() == len(corpus.ids)
    app.state.collection, app.state.model = collection, MiniLM.from_environment()
    yield


app = FastAPI(lifespan=_opened)


# Not a coroutine: on FastAPI's threads, with the client that blocks, a question costs less than with the other one.
@app.post("/search")
def search(query: Query, request: Request) -> list[Hit]:
    state = request.app.state
    vector = state.model.vector(query.query)
    found = state.collection.query([vector], n_results=query.top_k, include=["documents", "distances"])
    columns = zip(found["ids"][0], found["documents"][0], found["distances"][0], strict=True)
    return [Hit(id=id_, text=text, score=1 - distance) for id_, text, distance in columns]
