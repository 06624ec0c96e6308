"""What imports know of a document's original."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("documents", sa.Column("origin", TEXT, nullable=False, server_default=""))
