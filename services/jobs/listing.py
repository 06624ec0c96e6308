"""What lists of jobs, of items and of dead letters can be filtered and ordered by."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.jobs.job import DeadLetter, Item, ItemState, JobState, JobType
from services.mesh.filters import EVERYTHING, Field, FieldType, Filter, Schema, parse
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
_DEAD_LETTER_FIELDS = {
    "collection": Field(FieldType.STRING),
    "job": Field(FieldType.STRING),
    "document": Field(FieldType.STRING),
    "source_uri": Field(FieldType.STRING),
    "attempts": Field(FieldType.NUMBER),
    "reason": Field(FieldType.STRING),
    "create_time": Field(FieldType.TIMESTAMP),
}
# `name` and `update_time` are for the order only: a filter that names them is refused by the schemas without them.
_JOBS_FILTERED_BY, _ITEMS_FILTERED_BY = Schema(_JOB_FIELDS), Schema(_ITEM_FIELDS)
_DEAD_LETTERS_FILTERED_BY = Schema(_DEAD_LETTER_FIELDS)
_JOBS = Listing(
    schema=Schema({**_JOB_FIELDS, "update_time": Field(FieldType.TIMESTAMP), "name": Field(FieldType.STRING)}),
    sortable=("create_time", "update_time", "end_time", "name"),
    key="name",
    default_order="create_time desc, name desc",
)
_ITEMS = Listing(schema=Schema({**_ITEM_FIELDS, "name": Field(FieldType.STRING)}), sortable=("name",), key="name")

_DEAD_LETTERS = Listing(
    schema=Schema({**_DEAD_LETTER_FIELDS, "name": Field(FieldType.STRING)}),
    sortable=("create_time", "attempts", "name"),
    key="name",
    default_order="create_time desc",
)


def jobs_query(*, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> ListQuery:
    """One page of a tenant's jobs, asked for; newest first unless ordered otherwise.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: as Listing.query does.
    """
    parse(filter, _JOBS_FILTERED_BY)
    return _JOBS.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)


def by_age(query: ListQuery) -> bool:
    """Whether jobs are asked for by nothing but their age, as they are kept."""
    created, name = (query.order[0], query.order[-1])
    return query.filter == EVERYTHING and created.field == "create_time" and created.descending == name.descending


def items_query(job_id: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> ListQuery:
    """One page of a job's items, asked for, in the order they were found.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: as Listing.query does.
    """
    parse(filter, _ITEMS_FILTERED_BY)
    return _ITEMS.query(
        filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page, parent=job_id
    )


def dead_letters_query(*, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> ListQuery:
    """One page of a tenant's dead letters, asked for; newest first unless ordered otherwise.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: as Listing.query does.
    """
    parse(filter, _DEAD_LETTERS_FILTERED_BY)
    return _DEAD_LETTERS.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)


def dead_letters_filter(filter: str) -> Filter:
    """Which dead letters a filter means. Raises InvalidFilter."""
    return parse(filter, _DEAD_LETTERS_FILTERED_BY)


def job_fields(
    job_id: str,
    create_time: datetime,
    *,
    collection_id: str = "",
    type: str = "",
    state: str = "",
    update_time: datetime | None = None,
    end_time: datetime | None = None,
) -> Mapping[str, Any]:
    """A job as filters and orders see it."""
    return {
        "name": f"jobs/{job_id}",
        "collection": f"collections/{collection_id}",
        "type": type,
        "state": state,
        "create_time": create_time,
        "update_time": update_time,
        "end_time": end_time,
    }


def dead_letter_fields(letter: DeadLetter) -> Mapping[str, Any]:
    """A dead letter as filters and orders see it."""
    job, item = letter.job, letter.item
    collection = f"collections/{job.assignment.collection_id}"
    document_id = item.spec.document_id
    return {
        **dead_letter_place(job.id, item.number, item.end_time),
        "collection": collection,
        "job": f"jobs/{job.id}",
        "document": _document_names(collection, document_id),
        "source_uri": item.spec.source_uri or document_id,
        "attempts": item.attempts,
        "reason": item.error.reason if item.error else "",
    }


def dead_letter_place(job_id: str, number: int, create_time: datetime | None) -> Mapping[str, Any]:
    """What of a dead letter the usual order looks at."""
    return {"name": f"{job_id}-{number:010d}", "create_time": create_time}


def item_fields(collection_id: str, item: Item) -> Mapping[str, Any]:
    """An item as filters and orders see it; names order as their numbers do."""
    return {
        "name": f"{item.number:010d}",
        "state": str(item.state),
        "document": _document_names(f"collections/{collection_id}", item.spec.document_id),
        "source_uri": item.spec.source_uri,
    }


def _document_names(collection: str, document_id: str) -> list[str]:
    """What a filter may call a document by: its name, or its bare id."""
    return [f"{collection}/documents/{document_id}", document_id] if document_id else []
