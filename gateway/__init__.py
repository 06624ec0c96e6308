"""What transcoding at the edge cannot express, behind the edge: one ASGI process. It serves the API's documentation."""

from ragweave import terminals

terminals.leave_out()
