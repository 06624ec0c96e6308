"""What libraries import only for people at a terminal, left out of processes that have none."""

import sys
from typing import Final

# structlog colours tracebacks with them where they are installed, as they are for the `ragweave` command, and httpx
# makes a command of its own: 6 MiB a process, used by none. Mako, under Alembic, would colour its errors: 2.5 more.
UNUSED: Final = ("click", "pygments", "rich")


def leave_out() -> None:
    """In a process started as `python -m package...`, called by that package: has those imports fail.

    So whoever can do without does, as where they are not installed
    (https://docs.python.org/3/reference/import.html#the-module-cache). Whatever else imports the package, such as a
    test or the command, is left as it is: `sys.argv` names the program once it is found.
    """
    if sys.argv[0] == "-m":
        sys.modules.update(dict.fromkeys(UNUSED))  # type: ignore[arg-type]
