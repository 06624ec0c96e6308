"""Where Alembic finds how to run the steps of any service's schema."""
