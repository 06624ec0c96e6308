"""That a mesh keeps, while it is measured, what it promises: no figure is made by switching something off."""

import time
from typing import Any, Final

from tests.e2e.stack import PATIENCE_S, PREFIX, Answer, Mesh

_SEARCH: Final = "ragweave.v1.RetrievalService/Search"
_POLL_S: Final = 0.2


class Broken(Exception):
    """A promise is not kept; says which."""


def check(mesh: Mesh, token: str, collection: str, limit: int) -> None:
    """Strangers are refused at the edge and behind it, requests are checked and counted, changes are audited.

    Args:
        token: An admin's, of the tier whose limit is told.
        collection: One that has been created.

    Raises:
        Broken: One of that is not so.
    """
    fair = {"query": "a question", "collection": collection}
    _expect("a caller without a token is refused", 404, _search(mesh, fair, token=None))
    _expect("a false token is refused", 401, _search(mesh, fair, token=f"{token[:-8]}AAAAAAAA"))
    _expect("a request is checked", 400, _search(mesh, {**fair, "topK": 100_000}, token=token))
    _expect("a field that does not exist is refused", 400, _search(mesh, {**fair, "topk": 1}, token=token))
    answer = _search(mesh, fair, token=token)
    _expect("a fair search is answered", 200, answer)
    counted = answer.headers.get("x-ratelimit-limit", "").partition(",")[0]
    if counted != str(limit):
        raise Broken(f"calls are counted up to {limit}: the edge says {counted!r}")
    status, said = mesh.grpcurl(mesh.layout.address("retrieval"), _SEARCH, fair, token=f"{token[:-8]}AAAAAAAA")
    if not status or "Unauthenticated" not in said:
        raise Broken(f"a service takes a false token: {said}")
    _check_audit(mesh, token)


def _search(mesh: Mesh, body: dict[str, Any], *, token: str | None) -> Answer:
    return mesh.rest("POST", f"{PREFIX}/search", body, token=token)


def _expect(what: str, status: int, answer: Answer) -> None:
    if answer.status != status:
        raise Broken(f"{what}: {answer.status} {answer.body}")


def _check_audit(mesh: Mesh, token: str) -> None:
    """The creation of the collection comes to be in the log."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        events = mesh.rest("GET", f"{PREFIX}/auditEvents?pageSize=100", token=token).body["auditEvents"]
        if any(each["method"].endswith("/CreateCollection") for each in events):
            return
        time.sleep(_POLL_S)
    raise Broken("changes are audited: CreateCollection is not in the log")
