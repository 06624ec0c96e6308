"""Text in, hits out by Haystack, as Hayhooks serves it."""

from typing import Any

from hayhooks import BasePipelineWrapper
from haystack import Document, Pipeline, component
from haystack_integrations.components.retrievers.faiss import FAISSEmbeddingRetriever
from haystack_integrations.document_stores.faiss import FAISSDocumentStore
from minilm import DIMENSION, Corpus, MiniLM


@component
class QueryEmbedder:
    """The model as a component of a pipeline."""

    def __init__(self) -> None:
        self._model = MiniLM.from_environment()

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        return {"embedding": self._model.vector(text).tolist()}


class PipelineWrapper(BasePipelineWrapper):
    """What Hayhooks finds in a folder of pipelines."""

    def setup(self) -> None:
        # Vectors are of length 1, so the nearest by the index's distance are those by cosine.
        store, corpus = FAISSDocumentStore(embedding_dim=DIMENSION), Corpus.from_environment()
        store.write_documents(
            [
                Document(id=id_, content=text, embedding=vector.tolist())
                for id_, text, vector in zip(corpus.ids, corpus.texts, corpus.vectors, strict=True)
            ]
        )
        self.pipeline = Pipeline()
        self.pipeline.add_component("embedder", QueryEmbedder())
        self.pipeline.add_component("retriever", FAISSEmbeddingRetriever(document_store=store))
        self.pipeline.connect("embedder.embedding", "retriever.query_embedding")

    def run_api(self, query: str, top_k: int = 10) -> list[dict[str, Any]]:
        """Hits, best first."""
        found = self.pipeline.run({"embedder": {"text": query}, "retriever": {"top_k": top_k}})
        return [{"id": each.id, "text": each.content, "score": each.score} for each in found["retriever"]["documents"]]
