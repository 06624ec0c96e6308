"""Jobs: their states, their progress, their ids."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.jobs.job import (
    ITEM_TRANSITIONS,
    JOB_TRANSITIONS,
    Assignment,
    DirectoryImport,
    DocumentSpec,
    Failure,
    ItemState,
    Job,
    JobState,
    JobType,
    Lease,
    Progress,
    Task,
    new_job_id,
)

NOW = datetime(2024, 5, 1, tzinfo=UTC)
JOB = Job(Assignment("acme", "j", "ann", JobType.IMPORT, "books", "uid"), JobState.RUNNING, Progress(), NOW, NOW, NOW)


def test_every_state_of_a_job_can_be_reached_and_left_or_is_an_end() -> None:
    reached = {JobState.QUEUED, *JOB_TRANSITIONS.values()}
    assert reached == set(JobState)
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.PARTIALLY_SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_every_state_of_an_item_can_be_reached_and_left_or_is_an_end() -> None:
    assert {ItemState.QUEUED, *ITEM_TRANSITIONS.values()} == set(ItemState)
    assert [state for state in ItemState if not state.ended] == [ItemState.QUEUED, ItemState.RUNNING]


def test_a_running_job_is_never_at_a_hundred_percent() -> None:
    assert replace(JOB, progress=Progress(total=3, succeeded=3)).percentage < 100
    assert replace(JOB, progress=Progress(total=4, succeeded=1, failed=1, skipped=1)).percentage == 75
    assert replace(JOB, progress=Progress(total=3, succeeded=3), state=JobState.SUCCEEDED).percentage == 100
    assert replace(JOB, state=JobState.SUCCEEDED).percentage == 100
    assert replace(JOB, state=JobState.CANCELLED).percentage == 0


def test_the_end_is_told_from_the_rate_once_the_total_is_final() -> None:
    progress = Progress(total=30, total_final=True, succeeded=10, items_per_second=2.0)
    assert replace(JOB, progress=progress).estimated_end_time == NOW + timedelta(seconds=10)
    assert replace(JOB, progress=replace(progress, total_final=False)).estimated_end_time is None
    assert replace(JOB, progress=progress, state=JobState.SUCCEEDED).estimated_end_time is None


def test_job_ids_sort_by_when_they_were_made_and_never_repeat() -> None:
    made = [new_job_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [each[:9] for each in made] == sorted(each[:9] for each in made)


def test_a_file_is_shown_by_its_path_from_the_root() -> None:
    spec = DocumentSpec("a", path="x/a.md")
    assert spec.within(DirectoryImport("", "docs")).source_uri == "docs/x/a.md"
    assert spec.within(DirectoryImport("", "")).source_uri == "x/a.md"
    assert spec.within(DirectoryImport("team", "docs")).source_uri == "team:docs/x/a.md"
    assert spec.within(None) is spec


@pytest.mark.parametrize(("number", "task"), [(1, Task.ITEM), (0, Task.EXPAND), (-1, Task.SWEEP)])
def test_a_leases_number_tells_its_task(number: int, task: Task) -> None:
    assert Lease("acme", "j", number, "1-0", 1, 1, 0, False).task is task


@pytest.mark.parametrize(("code", "transient", "unreachable"), [(14, True, True), (8, True, True), (13, True, False)])
def test_only_what_may_soon_answer_is_waited_for(code: int, transient: bool, unreachable: bool) -> None:
    assert Failure(code, "X", "x", transient).unreachable is unreachable
