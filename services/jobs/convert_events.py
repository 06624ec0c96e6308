"""Between the events of a tenant and the contract's messages."""

from google.rpc.status_pb2 import Status

from ragweave.v1 import collection_pb2, event_pb2
from ragweave.v1 import event_service_pb2 as pb
from services.jobs.convert import item_to, job_to
from services.jobs.events import TenantEvent
from services.jobs.streams import Ended
from services.jobs.watching import Passed
from services.mesh.convert_times import time_to
from services.mesh.status import status_of


def event_to(event: TenantEvent) -> event_pb2.Event:
    message = event_pb2.Event(
        sequence=event.sequence,
        topic=event.topic,
        uid=event.uid,
        event_time=time_to(event.time),
        collection=f"collections/{event.collection_id}",
    )
    if event.job is not None:
        message.job.CopyFrom(job_to(event.job, whole=False))
    elif event.item is not None and event.assignment is not None:
        message.item.CopyFrom(item_to(event.item, event.assignment))
    else:
        message.changed_collection.CopyFrom(collection_pb2.Collection.FromString(event.changed_collection))
    return message


def watched_to(seen: TenantEvent | Passed | Ended) -> pb.WatchEventsResponse:
    match seen:
        case TenantEvent():
            return pb.WatchEventsResponse(sequence=seen.sequence, event=event_to(seen))
        case Ended():
            final = status_of(seen.error) if seen.error else Status()
            return pb.WatchEventsResponse(sequence=seen.sequence, final_status=final)
    return pb.WatchEventsResponse(sequence=seen.sequence)
