"""The short mode of `make soak`: some seconds, the same checks."""

from tests.e2e.soak import FLAT_DESCRIPTORS, soak
from tests.e2e.stack import Mesh


def test_calls_and_streams_that_are_given_up_leave_no_descriptors_behind(mesh: Mesh) -> None:
    found, given_up, streamed = soak(mesh, 4, warm_up_s=2, sample_s=0.2, documents=12)
    assert {"retrieval", "envoy", "redis", "worker"} <= {each.name for each in found}
    assert 0 < given_up < streamed
    assert {each.name: each.descriptors for each in found if each.descriptors > FLAT_DESCRIPTORS} == {}
