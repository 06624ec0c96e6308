"""Asks the process of this container whether it serves: `python -m ragweave.local.probe`, 0 where it does.

RAGWEAVE_PROCESS says which process it is, as in `ragweave status`. One that answers nobody is well as long as it runs,
which whoever runs the container sees by itself.
"""

import os
import sys
import urllib.request

from ragweave.local.layout import BadSetting, Layout

_PROBE_S = 2.0


def main() -> int:
    name = os.environ.get("RAGWEAVE_PROCESS", "")
    try:
        layout = Layout.read()
        state = _edge_live(layout) if name == "envoy" else _state(layout, name) if name else "serving"
    except BadSetting as error:
        state = str(error)
    print(state)
    return 0 if state == "serving" else 1


def _state(layout: Layout, name: str) -> str:
    # Loads gRPC, which is most of what a probe takes; not every one needs it.
    from ragweave.local.health import process_state
    from ragweave.local.processes import processes

    known = {each.name: each for each in processes(layout)}
    return process_state(layout, known[name]) if name in known else "serving"


def _edge_live(layout: Layout) -> str:
    """Of the edge alone: what is behind it has containers of its own."""
    url = f"http://{layout.address('edge admin')}/ready"
    try:
        urllib.request.urlopen(url, timeout=_PROBE_S).close()
    except OSError as error:
        return str(error)
    return "serving"


if __name__ == "__main__":
    sys.exit(main())
