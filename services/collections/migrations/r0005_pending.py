"""Documents whose import has not ended are found among all others."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    pending = sa.text("state = 'PENDING'")
    op.create_index("documents_pending", "documents", ["uid"], sqlite_where=pending, postgresql_where=pending)
