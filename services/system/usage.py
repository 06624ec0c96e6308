"""How tenants search: what the searching processes have counted, by collection and hour or day."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.mesh.errors import InvalidArgument
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.identity import Caller
from services.mesh.lists import Listing, Page
from services.mesh.maintenance import Step
from services.system.ports import Asked, TenantStore, UsageStore
from services.system.records import Figures, Granularity, UsageRow

ROWS: Final = Listing(
    Schema(
        {
            "start_time": Field(FieldType.TIMESTAMP),
            "collection_id": Field(FieldType.STRING, ordered=True),
            "collection_uid": Field(FieldType.STRING, ordered=True),
        }
    ),
    sortable=("start_time", "collection_id", "collection_uid"),
    key="collection_uid",
)
_LATEST_FIRST: Final = "start_time desc, collection_id"

_DEFAULT_SPANS: Final = {Granularity.HOUR: timedelta(days=1), Granularity.DAY: timedelta(days=30)}
# Whoever counts gives a batch up after a day: by then nobody asks any more whether it is known.
_BATCHES_KNOWN: Final = timedelta(days=2)
_PRUNE_EVERY_S: Final = 3600.0
_PRUNED_AT_ONCE: Final = 1000


def row_fields(row: UsageRow) -> Mapping[str, Any]:
    """What orders look at, by field name."""
    return {name: getattr(row, name) for name in ROWS.schema.fields}


@dataclass(frozen=True, slots=True)
class Report:
    """What was counted in a span of time, which is of whole periods: a page of its rows, and all of them summed up."""

    since: datetime
    until: datetime
    rows: Page[UsageRow]
    total: Figures


class SearchUsage:
    """Figures of searches, by tenant.

    Args:
        tenants: Those that are gone; nothing is kept of them.
        retention: Rows of older hours are dropped, day by day.
    """

    def __init__(
        self,
        store: UsageStore,
        tenants: TenantStore,
        *,
        retention: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._retention = retention
        self._clock = clock

    @property
    def steps(self) -> Sequence[Step]:
        """The maintenance of what is kept."""
        return (Step("drop old usage", self.prune, every_s=_PRUNE_EVERY_S),)

    async def add(self, batch_id: str, hours: Iterable[UsageRow]) -> None:
        """Adds what a process has counted by hours, to the days these are of too. A batch that comes again counts once.

        Rows of tenants that are gone are dropped, and so are those that are older than what is kept.
        """
        oldest = self._oldest()
        kept = [row for row in hours if row.start_time >= oldest]
        gone = await self._tenants.gone({row.tenant for row in kept})
        rows: dict[object, UsageRow] = {}
        for row in kept:
            if row.tenant in gone:
                continue
            for granularity in Granularity:
                one = replace(row, granularity=granularity, start_time=granularity.begin(row.start_time))
                known = rows.get(one.key)
                rows[one.key] = replace(one, figures=known.figures + one.figures) if known else one
        await self._store.add(batch_id, list(rows.values()), self._clock())

    async def report(
        self,
        who: Caller,
        *,
        collection_id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        granularity: Granularity = Granularity.HOUR,
        **paging: Any,
    ) -> Report:
        """What the caller's tenant searched for from `since` to `until`, in whole periods; the latest first.

        Args:
            paging: page_size, page_token and page, as `Listing.query` takes them.

        Raises:
            InvalidArgument: The span ends before it begins, or begins in the future.
            InvalidPageToken: The token belongs to other arguments.
        """
        parent = "/".join(map(str, (who.tenant, collection_id, since, until, granularity)))
        query = ROWS.query(parent=parent, order_by=_LATEST_FIRST, **paging)
        now = self._clock()
        if since is not None and since > now:
            raise InvalidArgument.of("start_time", f"lies in the future; it is {now:%Y-%m-%dT%H:%M:%SZ} now")
        last = now if until is None else until
        if since is not None and last <= since:
            raise InvalidArgument.of("end_time", f"must come after the start, {since:%Y-%m-%dT%H:%M:%SZ}")
        first = _earlier(last, _DEFAULT_SPANS[granularity]) if since is None else since
        asked = Asked(who.tenant, granularity, granularity.begin(first), _end(granularity, last), collection_id)
        total = await self._store.total(asked)  # first: what is added meanwhile is in a row at least
        return Report(asked.since, asked.until, await self._store.list_rows(asked, query), total)

    async def list_rows(self, who: Caller, *, order_by: str, **asked: Any) -> Page[UsageRow]:
        """A page of all hourly rows of the caller's tenant; `asked` as `Listing.query` takes it."""
        every = Asked(who.tenant, Granularity.HOUR, _BEGIN, _END)
        return await self._store.list_rows(every, ROWS.query(parent=who.tenant, order_by=order_by, **asked))

    async def prune(self) -> int:
        """Drops what is too old, a part at a time; returns how many rows that were."""
        dropped = 0
        while count := await self._store.prune(self._oldest(), _PRUNED_AT_ONCE):
            dropped += count
        await self._store.forget(self._clock() - _BATCHES_KNOWN)
        return dropped

    def _oldest(self) -> datetime:
        """The begin of a day: its hours go together with it."""
        return Granularity.DAY.begin(self._clock() - self._retention)


_BEGIN: Final = datetime(1, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 12, 31, tzinfo=UTC)


def _earlier(at: datetime, by: timedelta) -> datetime:
    return at - by if at - _BEGIN > by else _BEGIN


def _end(granularity: Granularity, last: datetime) -> datetime:
    """The end of the period that the last moment before a time lies in."""
    begin = granularity.begin(last)
    if begin == last:
        return begin
    return begin + granularity.length if _END - begin > granularity.length else _END
