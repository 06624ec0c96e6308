"""The short mode of `make chaos`: two processes, two faults each; what was acknowledged is there afterwards."""

from pathlib import Path

from tests.e2e.chaos import KILL, Stage
from tests.tcp_proxy import Link


def test_processes_that_are_killed_or_cut_off_come_back_by_themselves_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with Stage.set_up(tmp_path, doubled=("retrieval",), documents=20) as stage:
        before = {name: victim.pid() for name, victim in stage.victims.items()}
        found = stage.campaign(("retrieval", "redis"), (KILL, Link.BLACK_HOLE.value), hold_s=1.0, rest_s=1.0)
        stage.load.check()
        after = {name: victim.pid() for name, victim in stage.victims.items()}
    assert [(each.victim, each.fault) for each in found] == [
        ("retrieval", KILL),
        ("retrieval", Link.BLACK_HOLE.value),
        ("redis", KILL),
        ("redis", Link.BLACK_HOLE.value),
    ]
    assert all(each.reads > each.failed_reads for each in found)
    assert {name for name, pid in after.items() if pid != before[name]} == {"retrieval", "redis"}
