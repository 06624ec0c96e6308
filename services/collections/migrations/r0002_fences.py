"""Documents know whose turn their last import was, so that one that comes late is refused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("documents", sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"))
