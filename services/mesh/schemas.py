"""What a store that a newer version wrote is answered with, whatever keeps it."""


class UnknownSchema(SystemExit):
    """Stored data is of a newer version than this one; ends the process with one line that says so.

    Args:
        data: What an operator calls it, such as "the registry's database".
        found: The version it is at.
        known: The latest this version reads.
    """

    def __init__(self, data: str, *, found: str, known: str) -> None:
        super().__init__(
            f"{data} is at schema {found}, this version of Ragweave knows up to {known}: "
            "start the version that wrote it, or a newer one"
        )
