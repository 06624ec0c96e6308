"""A remote Redis over TLS by its URL, and the CA it is trusted by."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ragweave.certificates import CertificateFiles
from ragweave.local.authority import ensure_certificates
from services.jobs.adapters.redis import Redis
from services.mesh.errors import DependencyUnavailable
from services.mesh.settings import MeshSettings
from tests.jobs_store import store_in


@asynccontextmanager
async def behind_tls(socket: Path, files: CertificateFiles) -> AsyncIterator[int]:
    """The port of a server that ends TLS before the store's unix socket: the store's own binary may have none."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(socket))
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(files.certificate, files.key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shown)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_store_with_tls_is_reached_by_its_url_and_trusted_by_its_ca_alone(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "ours", ["store"])
    ensure_certificates(tmp_path / "theirs", ["store"])
    files = CertificateFiles.local(tmp_path / "ours", "store")
    (tmp_path / "store").mkdir()
    with store_in(tmp_path / "store") as store:
        async with behind_tls(store.socket, files) as port:
            url = f"rediss://127.0.0.1:{port}/0"
            mesh = MeshSettings(data_dir=tmp_path, redis_url=url, redis_ca=files.authority)
            async with Redis.open(mesh.redis_url) as redis:
                await redis.ping()
            for other in (
                MeshSettings(data_dir=tmp_path, redis_url=url, redis_ca=tmp_path / "theirs" / "ca.crt"),
                MeshSettings(data_dir=tmp_path, redis_url=url),
                MeshSettings(data_dir=tmp_path, redis_url=url.replace("rediss", "redis")),
            ):
                async with Redis.open(other.redis_url) as redis:
                    with pytest.raises(DependencyUnavailable):
                        await redis.ping()
