"""Clients for other backends, blocking and asyncio: deadlines, retries and the token from one place."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from ragweave import contract
from ragweave.errors import RagweaveError
from ragweave.exports import ended
from ragweave.names import collection_name
from ragweave.uploads import Sending
from ragweave.v1 import (
    cache_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    dead_letter_pb2,
    directory_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    embedding_service_pb2_grpc,
    evaluation_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    health_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_service_pb2_grpc,
    retrieval_service_pb2_grpc,
    search_pb2,
    system_service_pb2,
    system_service_pb2_grpc,
)
from ragweave.watching import watched, watched_async

Token = str | Callable[[], str]
ENDED = frozenset({job_pb2.Job.SUCCEEDED, job_pb2.Job.PARTIALLY_SUCCEEDED, job_pb2.Job.FAILED, job_pb2.Job.CANCELLED})

# A mutation outlives the restart of who serves it: attempts in all, and pauses between them.
_ATTEMPTS = 6
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 3.0
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.service_config", contract.service_config(load_balancing="pick_first", health_check=False)),
    ("grpc.enable_retries", 1),
    ("grpc.per_rpc_retry_buffer_size", 16 * 2**20),
    # An edge that vanished without a word is noticed within 30 s, by streams that have nothing to say as well.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or it is a minute, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    # One that was killed is back within seconds: it is looked for at that pace, not gRPC's two minutes. The second is
    # how long a connection may take.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


class _CallDetails(grpc.ClientCallDetails):
    """Call details for both kinds of channel, which read them by attribute."""

    def __init__(self, given: Any, timeout: float | None, metadata: Any) -> None:
        self.method = given.method
        self.timeout = timeout
        self.metadata = metadata
        self.credentials = given.credentials
        self.wait_for_ready = given.wait_for_ready
        self.compression = getattr(given, "compression", None)

    def within(self, timeout: float | None) -> "_CallDetails":
        return _CallDetails(self, timeout, self.metadata)


class _Policy:
    """What is added to every call: the token, and the deadline the contract states unless the caller set one."""

    def __init__(self, token: Token) -> None:
        self._token = token if callable(token) else lambda: token
        self.throttle = _Throttle()

    def applied(self, details: Any) -> _CallDetails:
        path = details.method.decode() if isinstance(details.method, bytes) else details.method
        known = contract.methods().get(path)
        timeout = details.timeout if details.timeout is not None or known is None else known.timeout_s
        metadata = [*(details.metadata or ())]
        if token := self._token():
            metadata.append(("authorization", f"Bearer {token}"))
        return _CallDetails(details, timeout, tuple(metadata))

    @staticmethod
    def repeatable(request: Any) -> Any | None:
        """The mutation under a request_id, its own or one made up here, so that it may be sent again; else None.

        The caller's message stays as it is: who sends it a second time means a second call.
        """
        if not isinstance(request, Message) or "request_id" not in request.DESCRIPTOR.fields_by_name:
            return None
        named: Any = type(request)()
        named.CopyFrom(request)
        named.request_id = named.request_id or uuid.uuid4().hex
        return named


class _Attempt(NamedTuple):
    """One more attempt: seconds to wait before it, and what is left of the call's time then; None: no end."""

    pause_s: float
    left_s: float | None


def _attempts(timeout_s: float | None) -> Iterator[_Attempt]:
    """Attempts after the first, with full jitter, while they fit into the call's time, which begins now."""
    return _attempts_until(None if timeout_s is None else time.monotonic() + timeout_s)


def _attempts_until(until: float | None) -> Iterator[_Attempt]:
    for attempt in range(_ATTEMPTS - 1):
        pause_s = random.uniform(0, min(_FIRST_BACKOFF_S * 4**attempt, _LONGEST_BACKOFF_S))  # noqa: S311 - jitter
        left_s = None if until is None else until - time.monotonic() - pause_s
        if left_s is not None and left_s <= 0:
            return
        yield _Attempt(pause_s, left_s)


class _Throttle:
    """What a client may spend on sending mutations again, by the rule its channel has for what it sends again."""

    def __init__(self) -> None:
        self._tokens: float = contract.RETRY_TOKENS

    def again(self, code: Any) -> bool:
        """Notes how an attempt ended; whether nobody answered, and another may be made."""
        if code is not grpc.StatusCode.UNAVAILABLE:
            self._tokens = min(contract.RETRY_TOKENS, self._tokens + contract.RETRY_TOKENS_A_SUCCESS)
            return False
        self._tokens = max(0, self._tokens - 1)
        return self._tokens > contract.RETRY_TOKENS / 2


class _Blocking(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Applies the policy to calls of a blocking channel."""

    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = self._policy.applied(client_call_details)
        named = self._policy.repeatable(request)
        if named is None:
            return continuation(details, request)
        attempts = _attempts(details.timeout)
        call = continuation(details, named)
        while self._policy.throttle.again(call.code()) and (attempt := next(attempts, None)):
            time.sleep(attempt.pause_s)
            call = continuation(details.within(attempt.left_s), named)
        return call

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._policy.applied(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._policy.applied(client_call_details), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._policy.applied(client_call_details), request_iterator)


# grpc.aio takes an interceptor of several kinds for its first kind only, so each kind is a class of its own.
class _AsyncUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = self._policy.applied(client_call_details)
        named = self._policy.repeatable(request)
        if named is None:
            return await continuation(details, request)
        attempts = _attempts(details.timeout)
        call = await continuation(details, named)
        while self._policy.throttle.again(await call.code()) and (attempt := next(attempts, None)):
            await asyncio.sleep(attempt.pause_s)
            call = await continuation(details.within(attempt.left_s), named)
        return call


class _AsyncUnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._policy.applied(client_call_details), request)


class _AsyncStreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._policy.applied(client_call_details), request_iterator)


class _AsyncStreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, policy: _Policy) -> None:
        self._policy = policy

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._policy.applied(client_call_details), request_iterator)


class _Stubs:
    """The contract's services on one channel; every method of theirs takes the contract's messages."""

    def __init__(self, channel: Any) -> None:
        self.cache: Any = cache_service_pb2_grpc.CacheServiceStub(channel)
        self.collections: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        self.directories: Any = directory_service_pb2_grpc.DirectoryServiceStub(channel)
        self.documents: Any = document_service_pb2_grpc.DocumentServiceStub(channel)
        self.retrieval: Any = retrieval_service_pb2_grpc.RetrievalServiceStub(channel)
        self.embedding: Any = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self.models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        self.evaluations: Any = evaluation_service_pb2_grpc.EvaluationServiceStub(channel)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self.jobs: Any = job_service_pb2_grpc.JobServiceStub(channel)
        self.system: Any = system_service_pb2_grpc.SystemServiceStub(channel)


class Client(_Stubs):
    """A blocking client; safe to share between threads. Close it, or use it in a `with` block.

    Args:
        target: `host:port` of the edge or of one service.
        token: A JWT, or a function that gives the current one for each call.
        credentials: TLS credentials; plain text where None.

    The services are attributes (`client.collections.ListCollections(...)`); the methods below are shorter forms of
    the common calls. They raise RagweaveError; the stubs raise grpc.RpcError. A mutation is sent again while nobody
    answers (UNAVAILABLE), under one request_id, and so is done once; a stream of the stubs' is not sent again.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:8080",
        *,
        token: Token = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._channel = (
            grpc.secure_channel(target, credentials, options=_OPTIONS)
            if credentials
            else grpc.insecure_channel(target, options=_OPTIONS)
        )
        super().__init__(grpc.intercept_channel(self._channel, _Blocking(_Policy(token))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends calls in flight and frees the connection."""
        self._channel.close()

    def health(self) -> health_pb2.Health:
        """How the deployment is: its state, and for operators every process."""
        with _explained():
            told: health_pb2.Health = self.system.GetHealth(system_service_pb2.GetHealthRequest())
            return told

    def search(self, query: str, collection: str, **fields: Any) -> search_pb2.SearchResponse:
        """Finds the passages that answer `query` best. `fields` are those of SearchRequest."""
        with _explained():
            response: search_pb2.SearchResponse = self.retrieval.Search(_search(query, collection, fields))
            return response

    def create_collection(self, collection_id: str, **fields: Any) -> collection_pb2.Collection:
        """Creates a collection. `fields` are those of Collection."""
        with _explained():
            made: collection_pb2.Collection = self.collections.CreateCollection(_collection(collection_id, fields))
            return made

    def import_texts(self, collection: str, texts: Iterable[dict[str, Any]], **fields: Any) -> job_pb2.Job:
        """Queues inline documents: dicts as InlineDocument, such as {"document_id": "a", "text": "..."}."""
        with _explained():
            job: job_pb2.Job = self.jobs.ImportDocuments(_inline(collection, texts, fields))
            return job

    def upload(self, collection: str, filename: str, content: bytes, **fields: Any) -> job_pb2.Job:
        """Uploads one file and queues its import; goes on where it was cut off, as long as some of it arrives."""
        sending = Sending(collection, filename, content, fields)
        attempts = _attempts(None)
        with _explained():
            while True:
                try:
                    answer: document_service_pb2.UploadDocumentResponse = self.documents.UploadDocument(
                        sending.messages()
                    )
                    return answer.job
                except grpc.RpcError as error:
                    attempt = next(attempts, None)
                    if attempt is None or not sending.may_go_on(error):
                        raise
                    time.sleep(attempt.pause_s)
                    if sending.go_on(error, self._received(sending)):
                        attempts = _attempts(None)

    def _received(self, sending: Sending) -> document_service_pb2.Upload | grpc.RpcError:
        try:
            found: document_service_pb2.Upload = self.documents.GetUpload(sending.question())
            return found
        except grpc.RpcError as error:
            return error

    def watch(self, job: str, after_sequence: int = 0) -> Iterator[job_service_pb2.WatchJobResponse]:
        """A job's events to its end; goes on after a broken connection where it was."""
        return watched(lambda after: self.jobs.WatchJob(_job_watch(job, after)), after_sequence)

    def watch_events(
        self, topics: Iterable[str] = (), *, collection: str = "", after_sequence: int = 0
    ) -> Iterator[event_pb2.Event]:
        """What happens in the tenant, without end; goes on after a broken connection where it was.

        Args:
            topics: Such as "ingestion.completed" or "document.*"; all where empty.
            collection: Of which collection; of all where empty.
            after_sequence: The last one seen: 0 for all events kept, -1 for none of them.
        """
        wanted = list(topics)
        ask = lambda after: self.events.WatchEvents(_event_watch(wanted, collection, after))  # noqa: E731
        for each in watched(ask, after_sequence):
            if (event := _event(each)) is not None:
                yield event

    def export_tenant(
        self, tenant: str, *, without_originals: bool = False
    ) -> Iterator[system_service_pb2.ExportTenantResponse]:
        """All that a tenant keeps, record by record, the one that says how it ended last; raises where not well."""
        request = system_service_pb2.ExportTenantRequest(name=f"tenants/{tenant}", without_originals=without_originals)
        with _explained():
            for record in self.system.ExportTenant(request):
                yield record
                if ended(record):
                    return
        raise RagweaveError(grpc.StatusCode.UNAVAILABLE, "the export broke off")

    def wait(self, job: str) -> job_pb2.Job:
        """The job once it has ended, whatever its state."""
        for _ in self.watch(job):
            pass
        with _explained():
            ended: job_pb2.Job = self.jobs.GetJob(job_service_pb2.GetJobRequest(name=job))
            return ended

    def sync(self, collection: str, *, allow_empty: bool = False) -> job_pb2.Job:
        """Queues what brings a collection in line with the directory it is bound to."""
        with _explained():
            job: job_pb2.Job = self.jobs.SyncCollection(_sync(collection, allow_empty))
            return job

    def reprocess(self, collection: str, filter: str = "", **fields: Any) -> job_pb2.Job:
        """Queues documents to be made again as the collection now says, from their stored originals: all, or those that
        match. `fields` are those of ReprocessDocumentsRequest.
        """
        with _explained():
            job: job_pb2.Job = self.jobs.ReprocessDocuments(_reprocess(collection, filter, fields))
            return job

    def purge(self, collection: str, filter: str, *, force: bool = False) -> job_pb2.Job:
        """Queues the deletion of the documents that match (`*`: all); without `force` the estimate counts them."""
        with _explained():
            job: job_pb2.Job = self.jobs.PurgeDocuments(_purge(collection, filter, force))
            return job

    def retry(self, job: str) -> job_pb2.Job:
        """Runs what failed of an ended job again, or resumes a cancelled one."""
        with _explained():
            again: job_pb2.Job = self.jobs.RetryJob(job_service_pb2.RetryJobRequest(name=job))
            return again

    def delete_job(self, job: str) -> job_pb2.Job:
        """Forgets an ended job; its documents stay."""
        with _explained():
            was: job_pb2.Job = self.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=job))
            return was

    def dead_letters(self, filter: str = "") -> Iterator[dead_letter_pb2.DeadLetter]:
        """Items that were given up, the newest first."""
        request = job_service_pb2.ListDeadLettersRequest(filter=filter, page_size=_PAGE)
        with _explained():
            while True:
                page = self.jobs.ListDeadLetters(request)
                yield from page.dead_letters
                request.page_token = page.next_page_token
                if not request.page_token:
                    return

    def replay(self, names: Iterable[str] = (), *, filter: str = "") -> job_service_pb2.ReplayDeadLettersResponse:
        """Queues dead letters again: those named, or else those that match the filter (`*`: all)."""
        request = job_service_pb2.ReplayDeadLettersRequest(names=names, filter=filter)
        with _explained():
            replayed: job_service_pb2.ReplayDeadLettersResponse = self.jobs.ReplayDeadLetters(request)
            return replayed


class AsyncClient(_Stubs):
    """The asyncio client; use it in an `async with` block. As Client, with coroutines and asynchronous iterators."""

    def __init__(
        self,
        target: str = "127.0.0.1:8080",
        *,
        token: Token = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        policy = _Policy(token)
        interceptors = [
            _AsyncUnaryUnary(policy),
            _AsyncUnaryStream(policy),
            _AsyncStreamUnary(policy),
            _AsyncStreamStream(policy),
        ]
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options=_OPTIONS, interceptors=interceptors)
            if credentials
            else grpc.aio.insecure_channel(target, options=_OPTIONS, interceptors=interceptors)
        )
        super().__init__(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends calls in flight and frees the connection."""
        await self._channel.close()

    async def health(self) -> health_pb2.Health:
        """As Client.health."""
        with _explained():
            told: health_pb2.Health = await self.system.GetHealth(system_service_pb2.GetHealthRequest())
            return told

    async def search(self, query: str, collection: str, **fields: Any) -> search_pb2.SearchResponse:
        """As Client.search."""
        with _explained():
            response: search_pb2.SearchResponse = await self.retrieval.Search(_search(query, collection, fields))
            return response

    async def create_collection(self, collection_id: str, **fields: Any) -> collection_pb2.Collection:
        """As Client.create_collection."""
        with _explained():
            request = _collection(collection_id, fields)
            made: collection_pb2.Collection = await self.collections.CreateCollection(request)
            return made

    async def import_texts(self, collection: str, texts: Iterable[dict[str, Any]], **fields: Any) -> job_pb2.Job:
        """As Client.import_texts."""
        with _explained():
            job: job_pb2.Job = await self.jobs.ImportDocuments(_inline(collection, texts, fields))
            return job

    async def upload(self, collection: str, filename: str, content: bytes, **fields: Any) -> job_pb2.Job:
        """As Client.upload."""
        sending = Sending(collection, filename, content, fields)
        attempts = _attempts(None)
        with _explained():
            while True:
                try:
                    answer: document_service_pb2.UploadDocumentResponse = await self.documents.UploadDocument(
                        sending.messages()
                    )
                    return answer.job
                except grpc.RpcError as error:
                    attempt = next(attempts, None)
                    if attempt is None or not sending.may_go_on(error):
                        raise
                    await asyncio.sleep(attempt.pause_s)
                    if sending.go_on(error, await self._received(sending)):
                        attempts = _attempts(None)

    async def _received(self, sending: Sending) -> document_service_pb2.Upload | grpc.RpcError:
        try:
            found: document_service_pb2.Upload = await self.documents.GetUpload(sending.question())
            return found
        except grpc.RpcError as error:
            return error

    def watch(self, job: str, after_sequence: int = 0) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        """As Client.watch."""
        return watched_async(lambda after: self.jobs.WatchJob(_job_watch(job, after)), after_sequence)

    async def watch_events(
        self, topics: Iterable[str] = (), *, collection: str = "", after_sequence: int = 0
    ) -> AsyncIterator[event_pb2.Event]:
        """As Client.watch_events."""
        wanted = list(topics)
        ask = lambda after: self.events.WatchEvents(_event_watch(wanted, collection, after))  # noqa: E731
        async for each in watched_async(ask, after_sequence):
            if (event := _event(each)) is not None:
                yield event

    async def export_tenant(
        self, tenant: str, *, without_originals: bool = False
    ) -> AsyncIterator[system_service_pb2.ExportTenantResponse]:
        """As Client.export_tenant."""
        request = system_service_pb2.ExportTenantRequest(name=f"tenants/{tenant}", without_originals=without_originals)
        with _explained():
            async for record in self.system.ExportTenant(request):
                yield record
                if ended(record):
                    return
        raise RagweaveError(grpc.StatusCode.UNAVAILABLE, "the export broke off")

    async def wait(self, job: str) -> job_pb2.Job:
        """As Client.wait."""
        async for _ in self.watch(job):
            pass
        with _explained():
            ended: job_pb2.Job = await self.jobs.GetJob(job_service_pb2.GetJobRequest(name=job))
            return ended

    async def sync(self, collection: str, *, allow_empty: bool = False) -> job_pb2.Job:
        """As Client.sync."""
        with _explained():
            job: job_pb2.Job = await self.jobs.SyncCollection(_sync(collection, allow_empty))
            return job

    async def reprocess(self, collection: str, filter: str = "", **fields: Any) -> job_pb2.Job:
        """As Client.reprocess."""
        with _explained():
            job: job_pb2.Job = await self.jobs.ReprocessDocuments(_reprocess(collection, filter, fields))
            return job

    async def purge(self, collection: str, filter: str, *, force: bool = False) -> job_pb2.Job:
        """As Client.purge."""
        with _explained():
            job: job_pb2.Job = await self.jobs.PurgeDocuments(_purge(collection, filter, force))
            return job

    async def retry(self, job: str) -> job_pb2.Job:
        """As Client.retry."""
        with _explained():
            again: job_pb2.Job = await self.jobs.RetryJob(job_service_pb2.RetryJobRequest(name=job))
            return again

    async def delete_job(self, job: str) -> job_pb2.Job:
        """As Client.delete_job."""
        with _explained():
            was: job_pb2.Job = await self.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=job))
            return was

    async def dead_letters(self, filter: str = "") -> AsyncIterator[dead_letter_pb2.DeadLetter]:
        """As Client.dead_letters."""
        request = job_service_pb2.ListDeadLettersRequest(filter=filter, page_size=_PAGE)
        while True:
            with _explained():
                page = await self.jobs.ListDeadLetters(request)
            for letter in page.dead_letters:
                yield letter
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def replay(self, names: Iterable[str] = (), *, filter: str = "") -> job_service_pb2.ReplayDeadLettersResponse:
        """As Client.replay."""
        request = job_service_pb2.ReplayDeadLettersRequest(names=names, filter=filter)
        with _explained():
            replayed: job_service_pb2.ReplayDeadLettersResponse = await self.jobs.ReplayDeadLetters(request)
            return replayed


# Entries asked for at a time where all are wanted: the most one answer holds.
_PAGE = 100


class _explained:
    """Turns a grpc.RpcError leaving the block into a RagweaveError."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise RagweaveError.of(error) from error


def _search(query: str, collection: str, fields: dict[str, Any]) -> search_pb2.SearchRequest:
    return json_format.ParseDict({"query": query, "collection": collection, **fields}, search_pb2.SearchRequest())


def _collection(collection_id: str, fields: dict[str, Any]) -> collection_service_pb2.CreateCollectionRequest:
    collection = json_format.ParseDict(fields, collection_pb2.Collection())
    return collection_service_pb2.CreateCollectionRequest(collection_id=collection_id, collection=collection)


def _job_watch(job: str, after: int) -> job_service_pb2.WatchJobRequest:
    return job_service_pb2.WatchJobRequest(name=job, after_sequence=after)


def _event_watch(topics: Sequence[str], collection: str, after: int) -> event_service_pb2.WatchEventsRequest:
    return event_service_pb2.WatchEventsRequest(topics=topics, collection=collection, after_sequence=after)


def _event(message: event_service_pb2.WatchEventsResponse) -> event_pb2.Event | None:
    """The event, where the message holds one. Raises RagweaveError where it says that there will be no more."""
    if message.HasField("final_status"):
        raise RagweaveError.of_status(message.final_status)
    return message.event if message.HasField("event") else None


def _inline(
    collection: str, texts: Iterable[dict[str, Any]], fields: dict[str, Any]
) -> job_service_pb2.ImportDocumentsRequest:
    body = {"parent": collection_name(collection), "inline": {"documents": list(texts)}, **fields}
    return json_format.ParseDict(body, job_service_pb2.ImportDocumentsRequest())


def _sync(collection: str, allow_empty: bool) -> job_service_pb2.SyncCollectionRequest:
    return job_service_pb2.SyncCollectionRequest(name=collection_name(collection), allow_empty=allow_empty)


def _reprocess(collection: str, filter: str, fields: dict[str, Any]) -> job_service_pb2.ReprocessDocumentsRequest:
    body = {"parent": collection_name(collection), "filter": filter, **fields}
    return json_format.ParseDict(body, job_service_pb2.ReprocessDocumentsRequest())


def _purge(collection: str, filter: str, force: bool) -> job_service_pb2.PurgeDocumentsRequest:
    return job_service_pb2.PurgeDocumentsRequest(parent=collection_name(collection), filter=filter, force=force)
