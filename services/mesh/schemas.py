"""What a store that a newer version wrote is answered with, whatever keeps it."""


def too_new(data: str, *, found: object, known: object) -> str:
    """Says which version the data is of, which one this process reads, and what to do.

    Args:
        data: What an operator calls it, such as "the registry's database".
        found: The version it is at.
        known: The latest this version reads.
    """
    return (
        f"{data} is at schema {found}, this version of Ragweave knows up to {known}: "
        "start the version that wrote it, or a newer one"
    )


class UnknownSchema(SystemExit):
    """Stored data is of a newer version than this one; ends the process with the line that says so (`too_new`)."""

    def __init__(self, data: str, *, found: object, known: object) -> None:
        super().__init__(too_new(data, found=found, known=known))
