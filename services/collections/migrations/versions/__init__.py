"""Steps, in the order of their down_revision."""
