"""The order in which texts are served, and which of them share a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.embedding.lanes import PADDING, Lane, Work
from services.embedding.ports import Tokens


def work(length: int, tenant: str = "") -> Work:
    return Work(b"", Tokens([0] * length, length), tenant)


def lane_of(*lengths: int) -> Lane:
    lane = Lane(1000)
    for length in lengths:
        lane.push(work(length))
    return lane


def lengths(batch: list[Work]) -> list[int]:
    return [len(each.tokens.ids) for each in batch]


async def test_the_oldest_goes_first_and_takes_those_of_its_length_along() -> None:
    lane = lane_of(20, 50, 21, 90, 19)
    assert lengths(lane.take(128, 8)) == [19, 20, 21]
    assert lengths(lane.take(128, 8)) == [50]
    assert lengths(lane.take(128, 8)) == [90]
    assert lane.take(128, 8) == []


async def test_a_text_longer_than_a_batch_goes_alone() -> None:
    lane = lane_of(256, 256)
    assert lengths(lane.take(128, 8)) == [256]
    assert len(lane) == 1


async def test_tenants_have_their_turns_whoever_came_first_with_however_many() -> None:
    lane = Lane(1000)
    for length in (50, 60, 70, 80):
        lane.push(work(length, "many"))
    for length in (150, 170):
        lane.push(work(length, "few"))
    assert [lengths(lane.take(256, 8)) for _ in range(6)] == [[50], [150], [60], [170], [70], [80]]


async def test_what_is_like_the_next_in_length_goes_with_it_whosever_it_is() -> None:
    lane = Lane(1000)
    for length, tenant in ((50, "one"), (51, "two"), (90, "two"), (91, "one")):
        lane.push(work(length, tenant))
    assert [lengths(lane.take(256, 8)) for _ in range(2)] == [[50, 51], [90, 91]]


async def test_the_nearest_in_length_is_preferred() -> None:
    assert lengths(lane_of(40, 34, 41).take(100, 8)) == [40, 41]


async def test_a_batch_keeps_to_its_number_of_works() -> None:
    lane = lane_of(10, 10, 10, 10)
    assert len(lane.take(128, 2)) == 2
    assert len(lane) == 2


async def test_a_removed_work_is_not_served_and_leaves_room() -> None:
    lane = Lane(2)
    first, second = work(5), work(5)
    lane.push(first)
    lane.push(second)
    assert lane.room == 0
    lane.remove(first)
    assert lane.room == 1
    assert first.lane is None
    assert lane.take(128, 8) == [second]


@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.integers(3, 256), min_size=1, max_size=60), st.integers(3, 512), st.integers(1, 9))
async def test_every_work_is_served_once_within_bounds(given: list[int], max_tokens: int, max_works: int) -> None:
    lane = Lane(1000)
    waiting = [work(length) for length in given]
    for each in waiting:
        lane.push(each)
    while batch := lane.take(max_tokens, max_works):
        assert waiting[0] in batch
        assert lengths(batch) == sorted(lengths(batch))
        shortest, longest = lengths(batch)[0], lengths(batch)[-1]
        assert len(batch) <= max_works
        assert len(batch) == 1 or len(batch) * longest <= max_tokens
        assert longest - shortest <= PADDING
        for each in batch:
            waiting.remove(each)
    assert waiting == []
