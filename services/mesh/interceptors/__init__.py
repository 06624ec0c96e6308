"""What happens to every call before its handler, in which order and why."""

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry

from ragweave.contract import Method
from services.mesh.audit import Trail
from services.mesh.chain import Chain
from services.mesh.deny_list import Denials
from services.mesh.disk import Disk
from services.mesh.interceptors.access import Access
from services.mesh.interceptors.admission import Admission
from services.mesh.interceptors.audit import Audit
from services.mesh.interceptors.auth import Auth
from services.mesh.interceptors.call_log import CallLog
from services.mesh.interceptors.deadline import Deadline
from services.mesh.interceptors.errors import Errors
from services.mesh.interceptors.metrics import Metrics
from services.mesh.interceptors.request_id import RequestId
from services.mesh.interceptors.revoked import Revoked
from services.mesh.interceptors.room import Room
from services.mesh.interceptors.tracing import Tracing
from services.mesh.interceptors.validation import Validation
from services.mesh.settings import MeshSettings
from services.mesh.tokens import TokenVerifier


def chain(
    settings: MeshSettings,
    methods: Mapping[str, Method],
    trail: Trail,
    denials: Denials,
    registry: CollectorRegistry = REGISTRY,
) -> Chain:
    """The whole chain, outermost first."""
    return Chain(
        [
            RequestId(),  # first: everything after it names the call by its id, refusals included
            Tracing(),  # before the log, which names the trace
            CallLog(),  # outside errors, so that it sees the code the caller gets
            Metrics(registry),  # the same
            Errors(),  # inside the observers, outside all that may refuse
            Deadline(),  # before auth, which may wait for keys
            # Before the audit, which names the caller.
            Auth(TokenVerifier(settings), settings.public_tenant, anonymous=settings.anonymous),
            # After auth, which tells users from services; before anything that costs.
            Admission(running=settings.max_running_calls, waiting=settings.max_waiting_calls, registry=registry),
            Audit(trail),  # outside all that may refuse a known caller
            Revoked(denials),  # before anything a denied caller could learn from
            Access(),  # before validation: strangers learn nothing
            # Before validation, which a stream's handler begins: nothing of an upload is taken in vain.
            Room(Disk(settings.data_dir, "data", reserve_bytes=settings.min_free_disk)),
            Validation(),  # last: the handler sees only messages within the contract's bounds
        ],
        methods,
    )
