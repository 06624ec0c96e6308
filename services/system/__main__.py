"""Starts the system service: `python -m services.system`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final

import grpc

from ragweave.internal.v1.quota_service_pb2_grpc import add_QuotaServiceServicer_to_server
from ragweave.internal.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from ragweave.v1.system_service_pb2_grpc import add_SystemServiceServicer_to_server
from services.mesh.channels import open_channel
from services.mesh.health import serving
from services.mesh.maintenance import Maintenance
from services.mesh.redis import open_redis
from services.mesh.serve import Wiring, serve
from services.mesh.settings import MeshSettings, read
from services.mesh.sql import OpenDatabase, sqlite_url
from services.mesh.this_process import product_version
from services.system.adapters.collections import RegistryUsage
from services.system.adapters.grpc_archive import GrpcArchive
from services.system.adapters.grpc_owners import GrpcOwner
from services.system.adapters.grpc_processes import GrpcProcesses
from services.system.adapters.redis_audit import RedisAuditStream
from services.system.adapters.redis_compaction import RedisCompaction
from services.system.adapters.redis_deny_list import RedisDenyList
from services.system.adapters.redis_workers import RedisWorkers
from services.system.adapters.sql_audit import SqlAuditLog
from services.system.adapters.sql_quotas import SqlQuotaStore
from services.system.adapters.sql_revocations import SqlRevocationStore
from services.system.adapters.sql_tables import check
from services.system.adapters.sql_tenants import SqlTenantRecords, SqlTenantStore
from services.system.adapters.sql_usage import SqlUsageStore
from services.system.adapters.taker import open_taker
from services.system.audit import Audit
from services.system.audit_intake import AuditIntake
from services.system.backups import Backups
from services.system.export import Exports
from services.system.health import Deployment
from services.system.migrations import SYSTEM
from services.system.operators import Operators
from services.system.quotas import Quotas
from services.system.revocations import Revocations
from services.system.servicer import QuotaServicer, SystemServicer, UsageServicer
from services.system.settings import Settings
from services.system.tenants import Tenants
from services.system.usage import SearchUsage

_CONNECTIONS: Final = 8


def servers(mesh: MeshSettings) -> list[GrpcProcesses]:
    targets = {
        "collections": mesh.collections_target,
        "embedding": mesh.embedding_target,
        "jobs": mesh.jobs_target,
        "retrieval": mesh.retrieval_target,
        "system": mesh.system_target,
    }
    return [GrpcProcesses(mesh, *each) for each in targets.items()]


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    url = settings.database_url or sqlite_url(settings.mesh.data_dir / "system" / "system.db")
    mesh = settings.mesh
    async with (
        OpenDatabase.open(url, SYSTEM, pool_size=settings.database_pool) as database,
        open_redis(mesh.redis_url, connections=_CONNECTIONS) as redis,
        open_channel(mesh, mesh.collections_target) as collections,
        open_channel(mesh, mesh.jobs_target) as jobs,
        open_channel(mesh, mesh.retrieval_target) as retrieval,
        open_channel(mesh, mesh.embedding_target) as embedding,
        AsyncExitStack() as opened,
        open_taker(mesh) as (shelf, taker),
    ):
        deployment = Deployment(
            [*[await opened.enter_async_context(each) for each in servers(mesh)], RedisWorkers(redis)],
            Operators(mesh.operator_tenant),
            version=product_version(),
            commit=mesh.commit,
            vital=settings.vital_services,
        )
        log = SqlAuditLog(database)
        intake = AuditIntake(
            RedisAuditStream(redis, claim_s=settings.audit_claim_s),
            log,
            retention=timedelta(days=settings.audit_retention_days),
        )
        audit = Audit(log)
        operators = Operators(mesh.operator_tenant)
        limits, revoked = SqlQuotaStore(database), SqlRevocationStore(database)
        searches, gone = SqlUsageStore(database), SqlTenantStore(database)
        usage = SearchUsage(searches, gone, retention=timedelta(days=settings.usage_retention_days))
        quotas = Quotas(limits, RegistryUsage(collections), operators, defaults=settings.quota.limits)
        revocations = Revocations(
            revoked,
            RedisDenyList(redis),
            interval_s=settings.publish_interval_s,
            most=settings.max_revocations,
        )
        owners = {"jobs": jobs, "collections": collections, "retrieval": retrieval, "embedding": embedding}
        tenants = Tenants(
            gone,
            SqlTenantRecords(database, limits, revoked, log, searches),
            revocations,
            [GrpcOwner(name, channel) for name, channel in owners.items()],
            RedisCompaction(redis),
            operators,
            settle=timedelta(seconds=settings.erase_settle_s),
        )
        exports = Exports(GrpcArchive(collections, jobs), quotas, revocations, usage, audit, operators)

        def register(server: grpc.aio.Server) -> None:
            servicer = SystemServicer(audit, revocations, quotas, usage, tenants, exports, deployment)
            add_SystemServiceServicer_to_server(servicer, server)
            add_QuotaServiceServicer_to_server(QuotaServicer(quotas), server)
            add_UsageServiceServicer_to_server(UsageServicer(usage), server)

        kept = settings.backup
        backups = Backups(shelf, taker, gone, at=kept.at, daily=kept.daily, weekly=kept.weekly)
        steps = (*intake.steps, *usage.steps)
        maintenance = Maintenance("system", steps, interval_s=settings.maintenance_interval_s)
        # A loop of its own: a backup takes as long as it takes.
        backing_up = Maintenance("system", backups.steps, interval_s=settings.maintenance_interval_s)
        async with (
            revocations.running(),
            intake.running(),
            tenants.running(),
            maintenance.running(),
            backing_up.running(),
        ):
            yield Wiring(
                register,
                checks={"database": lambda: check(database)},
                uses={"collections": lambda: serving(collections)},
            )


if __name__ == "__main__":
    asyncio.run(serve("system", wire, read(Settings)))
