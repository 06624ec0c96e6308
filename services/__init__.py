"""The processes of the mesh, a package each."""

import os

from ragweave import terminals

# gRPC's core reads this when it is imported. Its lines are not JSON, and every refused handshake would be one.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
terminals.leave_out()
