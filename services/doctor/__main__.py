"""What the services' settings lead to, as findings, one JSON object a line: `python -m services.doctor [--stopped]`."""

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Final

from ragweave.findings import Finding, error, to_lines, warning
from services.collections.migrations import REGISTRY
from services.collections.settings import Settings as CollectionsSettings
from services.doctor import answers, databases
from services.doctor.variables import unknown_variables
from services.embedding.rerank_sources import Kind
from services.embedding.settings import Settings as EmbeddingSettings
from services.jobs.settings import Settings as JobsSettings
from services.jobs.settings import WorkerSettings
from services.mesh.edge_settings import EdgeSettings
from services.mesh.settings import BadSettings, MeshSettings, read
from services.mesh.weaknesses import weaknesses
from services.retrieval.settings import Settings as RetrievalSettings
from services.system.migrations import SYSTEM
from services.system.settings import Settings as SystemSettings

_ALL: Final = (
    EdgeSettings,
    CollectionsSettings,
    EmbeddingSettings,
    JobsSettings,
    WorkerSettings,
    RetrievalSettings,
    SystemSettings,
)
_OTLP_PORT: Final = 4317


def examine(*, stopped: bool) -> Iterator[Finding]:
    """Everything, the worst last: what cannot be read keeps the rest from being looked at.

    Args:
        stopped: The mesh of this machine does not run, so what it runs itself is not expected to answer.
    """
    yield from unknown_variables(os.environ)
    bad = [*_unreadable()]
    yield from bad
    if bad:
        return
    edge = EdgeSettings()
    for weakness in weaknesses(edge):
        production = edge.mesh.profile == "production" and weakness.refused
        why = "production refuses to start with it" if production else "the mesh is weaker than it need be"
        yield (error if production else warning)(weakness.what, why, weakness.mend)
    mesh = edge.mesh
    for schema, settings, name in (
        (REGISTRY, CollectionsSettings(), "collections/registry.db"),
        (SYSTEM, SystemSettings(), "system/system.db"),
    ):
        service = name.partition("/")[0].upper()
        url = settings.database_url
        yield from databases.look_at(schema, url, mesh.data_dir / name, f"RAGWEAVE_{service}_DATABASE_URL")
    dependencies = [*_stores(mesh, stopped=stopped), *_endpoints(mesh)]
    yield from asyncio.run(answers.look_at(dependencies, skew_s=mesh.clock_skew_s))


def _unreadable() -> Iterator[Finding]:
    for kind in _ALL:
        try:
            read(kind)
        except BadSettings as failure:
            for line in str(failure).splitlines():
                yield error(line, "what is set so does not start", "correct the setting, or unset it for its default")


def _stores(mesh: MeshSettings, *, stopped: bool) -> Iterator[answers.Dependency]:
    why = "imports, jobs and webhooks wait, and nothing is cached or revoked"
    if not (stopped and mesh.redis_url.startswith(f"unix://{mesh.data_dir}")):
        yield answers.redis("the Redis store", "RAGWEAVE_REDIS_URL", mesh.redis_url, why, durable=True)
    retrieval, embedding = RetrievalSettings(), EmbeddingSettings()
    for name, variable, url in (
        ("the Redis store of answers", "RAGWEAVE_RETRIEVAL_CACHE_URL", retrieval.cache_url),
        ("the Redis store of embeddings", "RAGWEAVE_EMBEDDING_CACHE_URL", embedding.cache_url),
    ):
        if url:
            why = "nothing is cached between processes, and searches are slower"
            yield answers.redis(name, variable, url, why, durable=False, vital=False)
    if retrieval.store == "qdrant":
        why = "nothing can be searched or imported"
        yield answers.http("the Qdrant server", "RAGWEAVE_RETRIEVAL_QDRANT_URL", retrieval.qdrant_url, why)


def _endpoints(mesh: MeshSettings) -> Iterator[answers.Dependency]:
    for source in EmbeddingSettings().rerank_models:
        if source.kind is not Kind.ONNX:
            why = f"searches that ask for {source.model} are answered without reranking"
            name = f"the endpoint of {source.model}"
            yield answers.http(name, "RAGWEAVE_EMBEDDING_RERANK_MODELS", source.place, why, vital=False)
    for name, variable, url in (
        ("the key server of users' tokens", "RAGWEAVE_JWKS", mesh.jwks),
        ("the key server of services' tokens", "RAGWEAVE_MESH_JWKS", mesh.mesh_jwks),
    ):
        if url.startswith(("http://", "https://")):
            yield answers.http(name, variable, url, "no token can be verified once the keys fetched earlier are stale")
    if mesh.otlp_endpoint:
        why, variable = "traces are lost", "RAGWEAVE_OTLP_ENDPOINT"
        yield answers.port("the OTLP collector", variable, mesh.otlp_endpoint, _OTLP_PORT, why, vital=False)


if __name__ == "__main__":
    for finding in examine(stopped="--stopped" in sys.argv):
        sys.stdout.write(to_lines([finding]))
