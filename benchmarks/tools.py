"""Where the load generators are that are not Python's."""

import os
import shutil
import sys
from pathlib import Path


def found_tool(name: str) -> str | None:
    """The path of a command beside this Python, or of the PATH; None where there is none."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return shutil.which(name, path=os.pathsep.join(places))
