"""What is kept is kept by tenant: every table says whose a row is, and every exception why it need not."""

import pytest
from sqlalchemy import Table

from services.collections.adapters.sql_tables import METADATA as REGISTRY
from services.system.adapters.sql_tables import METADATA as SYSTEM

TABLES = {table.name: table for metadata in (REGISTRY, SYSTEM) for table in metadata.tables.values()}
# Tables without a tenant of their own, and why.
SHARED = {
    "sequences": "counts the registry's changes; holds nothing of anybody",
    "usage_batches": "random ids that services gave to batches of figures, of all tenants; no caller names one",
}


def of_a_tenant(table: Table) -> bool:
    """Whether each row names its tenant, or belongs to a row that does."""
    column = table.c.get("tenant")
    if column is not None:
        return not column.nullable
    return any(
        not key.parent.nullable and key.ondelete == "CASCADE" and of_a_tenant(key.column.table)
        for key in table.foreign_keys
    )


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_some_tenants(name: str) -> None:
    assert of_a_tenant(TABLES[name]) != (name in SHARED)


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if "tenant" in table.primary_key.columns])
def test_no_tenant_takes_anothers_key(name: str) -> None:
    """Where callers choose a part of the key, the tenant comes first in it."""
    assert next(iter(TABLES[name].primary_key.columns)).name == "tenant"


def test_nothing_is_excepted_that_is_not_there() -> None:
    assert set(SHARED) <= set(TABLES)
