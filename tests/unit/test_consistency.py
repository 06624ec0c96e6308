"""Consistency tokens."""

import base64

import pytest

from services.mesh.consistency import consistency_token, written_at
from services.mesh.errors import InvalidArgument


def test_a_token_tells_what_it_was_made_of() -> None:
    assert written_at(consistency_token("uid-1", 42)) == ("uid-1", 42)


@pytest.mark.parametrize(
    "made", [b"", b"{}", b"[1]", b'[2,"u",1]', b'[1,"u",-1]', b'[1,"u",true]', b"[1,2,3]", b"\xff"]
)
def test_what_no_job_returned_is_refused(made: bytes) -> None:
    for token in (base64.urlsafe_b64encode(made).decode().rstrip("="), made.decode("latin-1")):
        with pytest.raises(InvalidArgument):
            written_at(token)
