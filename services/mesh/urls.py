"""URLs that may hold a password: checked before a library can quote them, shown without it."""

from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import AfterValidator, Field

_UNREADABLE = "is not a URL that can be read; percent-encode special characters of a password"


def check_url(url: str) -> str:
    """The URL, if its host and port can be told apart; a path, or nothing, as it is.

    Raises:
        ValueError: They cannot, most often because a password holds a character that must be percent-encoded. Quotes
            nothing of the URL.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    # What follows an unescaped "#" in a password is taken for a fragment, and the rest for the host.
    if parts.fragment or "@" in parts.path + parts.query:
        raise ValueError(_UNREADABLE)
    return url


def redacted(url: str) -> str:
    """A URL to show: without user, password and the values of its query. What is no URL stays as it is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "(not a URL)"
    if not parts.scheme or (not parts.netloc and not parts.query):
        return url
    host = parts.netloc.rpartition("@")[2] if port is None or parts.hostname else ""
    query = urlencode([(name, "***") for name, _ in parse_qsl(parts.query)], safe="*")
    return urlunsplit((parts.scheme, ("***@" if "@" in parts.netloc else "") + host, parts.path, query, ""))


def with_query(url: str, **added: str) -> str:
    """The URL with more in its query; what it says already stays."""
    parts = urlsplit(url)
    known = {name for name, _ in parse_qsl(parts.query)}
    more = "&".join(f"{name}={quote(value)}" for name, value in added.items() if name not in known)
    query = "&".join(part for part in (parts.query, more) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))


# A setting that may hold a password: never part of its settings' text, nor of an error.
SecretUrl = Annotated[str, AfterValidator(check_url), Field(repr=False)]
