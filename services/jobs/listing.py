"""What lists of jobs and of items can be filtered and ordered by."""

from collections.abc import Mapping
from typing import Any

from services.jobs.job import Item, ItemState, Job, JobState, JobType
from services.mesh.filters import Field, FieldType, Schema, parse
from services.mesh.lists import Listing, ListQuery

_JOB_FIELDS = {
    "collection": Field(FieldType.STRING),
    "type": Field(FieldType.ENUM, values=tuple(JobType)),
    "state": Field(FieldType.ENUM, values=tuple(JobState)),
    "create_time": Field(FieldType.TIMESTAMP),
    "end_time": Field(FieldType.TIMESTAMP),
}
_ITEM_FIELDS = {
    "state": Field(FieldType.ENUM, values=tuple(ItemState)),
    "document": Field(FieldType.STRING),
    "source_uri": Field(FieldType.STRING),
}
# `name` and `update_time` are for the order only: a filter that names them is refused by the schemas without them.
_JOBS_FILTERED_BY, _ITEMS_FILTERED_BY = Schema(_JOB_FIELDS), Schema(_ITEM_FIELDS)
_JOBS = Listing(
    schema=Schema({**_JOB_FIELDS, "update_time": Field(FieldType.TIMESTAMP), "name": Field(FieldType.STRING)}),
    sortable=("create_time", "update_time", "end_time", "name"),
    key="name",
    default_order="create_time desc",
)
_ITEMS = Listing(schema=Schema({**_ITEM_FIELDS, "name": Field(FieldType.STRING)}), sortable=("name",), key="name")


def jobs_query(*, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> ListQuery:
    """One page of a tenant's jobs, asked for; newest first unless ordered otherwise.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: as Listing.query does.
    """
    parse(filter, _JOBS_FILTERED_BY)
    return _JOBS.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)


def items_query(job_id: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> ListQuery:
    """One page of a job's items, asked for, in the order they were found.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: as Listing.query does.
    """
    parse(filter, _ITEMS_FILTERED_BY)
    return _ITEMS.query(
        filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page, parent=job_id
    )


def job_fields(job: Job) -> Mapping[str, Any]:
    """A job as filters and orders see it."""
    return {
        "name": f"jobs/{job.id}",
        "collection": f"collections/{job.assignment.collection_id}",
        "type": str(job.assignment.type),
        "state": str(job.state),
        "create_time": job.create_time,
        "update_time": job.update_time,
        "end_time": job.end_time,
    }


def item_fields(item: Item) -> Mapping[str, Any]:
    """An item as filters and orders see it; names order as their numbers do."""
    return {
        "name": f"{item.number:010d}",
        "state": str(item.state),
        "document": item.spec.document_id,
        "source_uri": item.spec.source_uri,
    }
