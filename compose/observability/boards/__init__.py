"""What Grafana shows: five boards, each some rows of panels, each panel some queries by their legend."""

from typing import Final

from compose.observability.boards.edge import EDGE
from compose.observability.boards.ingestion import INGESTION
from compose.observability.boards.overview import OVERVIEW
from compose.observability.boards.search import SEARCH
from compose.observability.boards.vector_store import VECTOR_STORE

BOARDS: Final = (OVERVIEW, SEARCH, INGESTION, EDGE, VECTOR_STORE)
