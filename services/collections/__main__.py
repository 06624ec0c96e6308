"""Starts the collections service: `python -m services.collections`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc

from ragweave.internal.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from ragweave.internal.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from ragweave.v1.collection_service_pb2_grpc import add_CollectionServiceServicer_to_server
from ragweave.v1.directory_service_pb2_grpc import add_DirectoryServiceServicer_to_server
from ragweave.v1.document_service_pb2_grpc import add_DocumentServiceServicer_to_server
from services.collections.adapters.embedding import EmbeddingModels
from services.collections.adapters.folders import ConfinedFolders
from services.collections.adapters.jobs import GrpcJobs
from services.collections.adapters.retrieval import RetrievalIndex
from services.collections.adapters.sql import SqlStore
from services.collections.adapters.system import SystemLimits
from services.collections.collection_deletions import CollectionDeletions
from services.collections.directories import Directories
from services.collections.document_deletions import DocumentDeletions
from services.collections.document_writer import DocumentWriter
from services.collections.documents import Documents
from services.collections.erasure import Erasure
from services.collections.imports import Imports
from services.collections.quotas import Quotas
from services.collections.registry import Registry
from services.collections.servicer import (
    CollectionServicer,
    DirectoryServicer,
    DocumentServicer,
    RegistryServicer,
    TenantServicer,
)
from services.collections.settings import Settings
from services.collections.sizes import Sizes
from services.collections.upkeep import Upkeep
from services.mesh.audit_trail import AuditTrail
from services.mesh.channels import open_channel
from services.mesh.health import serving
from services.mesh.maintenance import Maintenance
from services.mesh.roots import Roots
from services.mesh.serve import Wiring, serve
from services.mesh.settings import read
from services.mesh.sql import sqlite_url


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    mesh = settings.mesh
    url = settings.database_url or sqlite_url(mesh.data_dir / "collections" / "registry.db")
    async with (
        SqlStore.open(url, pool_size=settings.database_pool) as store,
        ConfinedFolders.open(Roots(mesh.roots), max_file_bytes=mesh.max_document_bytes) as folders,
        open_channel(mesh, mesh.retrieval_target) as retrieval,
        open_channel(mesh, mesh.embedding_target) as embedding,
        open_channel(mesh, mesh.jobs_target) as jobs,
        open_channel(mesh, mesh.system_target) as system,
        AuditTrail.open(mesh) as trail,
    ):
        index = RetrievalIndex(retrieval)
        quotas = Quotas(store, SystemLimits(system), defaults=settings.quota.limits, fresh_s=settings.limits_fresh_s)
        registry = Registry(store, index, EmbeddingModels(embedding), folders, quotas, poll_s=settings.follow_poll_s)
        queue, retention = GrpcJobs(jobs), timedelta(seconds=settings.retention_s)
        documents = Documents(store, index, queue, quotas, max_upload_bytes=settings.max_upload_bytes)
        writer = DocumentWriter(store, index)
        imports = Imports(writer, queue)
        deletions = DocumentDeletions(store, index, imports, quotas, retention=retention)
        whole = CollectionDeletions(store, index, quotas, registry.announce, retention=retention)
        erasure = Erasure(store, whole, heard=timedelta(seconds=settings.events_heard_s))

        def register(server: grpc.aio.Server) -> None:
            add_CollectionServiceServicer_to_server(CollectionServicer(registry, whole), server)
            add_DocumentServiceServicer_to_server(DocumentServicer(documents, deletions), server)
            add_DirectoryServiceServicer_to_server(DirectoryServicer(Directories(folders)), server)
            add_TenantServiceServicer_to_server(TenantServicer(erasure), server)
            add_RegistryServiceServicer_to_server(RegistryServicer(registry, documents, deletions, quotas), server)

        upkeep, sizes = Upkeep(store, whole, writer, imports, trail), Sizes(store, most=settings.measured)
        steps = (*upkeep.steps, sizes.step)
        async with Maintenance("collections", steps, interval_s=settings.upkeep_interval_s).running():
            yield Wiring(
                register,
                checks={"database": store.check},
                uses={"retrieval": lambda: serving(retrieval), "jobs": lambda: serving(jobs)},
                stopping=registry.stop_following,
            )


if __name__ == "__main__":
    asyncio.run(serve("collections", wire, read(Settings)))
