"""An engine's operations, in this process, and the order in which it answers."""

import asyncio
import socket
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

from services.mesh.filters import EVERYTHING, Comparison, Operator
from services.retrieval.adapters.edge_build import copy_tree
from services.retrieval.adapters.edge_child import Engine, serve
from services.retrieval.adapters.edge_engine import EdgeEngine
from services.retrieval.adapters.edge_filter import recipe
from services.retrieval.adapters.edge_frames import FORGET, Unframer, packed

ALL = recipe(EVERYTHING)


def point(id_: int, dense: tuple[float, ...] = (1.0, 0.0), terms: tuple[int, ...] = (7,), **payload: Any) -> Any:
    weights = array("f", [1.0] * len(terms)).tobytes()
    return [id_, array("f", dense).tobytes(), array("I", terms).tobytes(), weights, {"document": "d", **payload}]


def search(engine: Engine, folder: str, terms: tuple[int, ...] = (7,)) -> Any:
    sparse = [array("I", terms).tobytes(), array("f", [1.0] * len(terms)).tobytes()]
    dense = array("f", [1.0, 0.1]).tobytes()
    return engine.answer(["search", folder, dense, sparse, ALL, 10, [60, 1.0, 1.0], 10, None, None, False, False, []])


@pytest.fixture
def engine() -> Any:
    made = Engine(max_open=2)
    yield made
    made.close()


def created(engine: Engine, folder: Path) -> str:
    engine.answer(["create", str(folder), 2, "cosine", 1])
    return str(folder)


def test_a_search_tells_total_candidates_and_stages(engine: Engine, tmp_path: Path) -> None:
    folder = created(engine, tmp_path / "a")
    engine.answer(["upsert", folder, [point(1), point(2, (0.0, 1.0), ()), point(3, (-1.0, 0.0), (8,))]])
    by_stage, candidates, hits = search(engine, folder)
    assert (by_stage, candidates, len(hits)) == ({"dense": 3, "sparse": 1}, 3, 3)
    score, payload, stages, *_ = hits[0]
    assert score == pytest.approx(2 / 61)
    assert payload == {"document": "d"}
    assert [(stage, rank) for stage, _, rank in stages] == [("dense", 1), ("sparse", 1)]


def test_deletes_say_how_many_and_pass_over_none(engine: Engine, tmp_path: Path) -> None:
    folder = created(engine, tmp_path / "a")
    engine.answer(["upsert", folder, [point(1), point(2, document="e")]])
    chosen = recipe(Comparison(("document",), Operator.EQ, "e"))
    assert engine.answer(["delete", folder, chosen]) == 1
    assert engine.answer(["delete", folder, chosen]) == 0
    assert engine.answer(["count", folder, ALL]) == engine.answer(["info", folder]) == 1


def test_a_journal_repeats_on_a_copy_what_was_written_since(engine: Engine, tmp_path: Path) -> None:
    folder, copy, journal = created(engine, tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "journal")
    engine.answer(["upsert", folder, [point(n) for n in range(1, 6)]])
    engine.answer(["journal", folder, journal])
    copy_tree(Path(folder), Path(copy))
    engine.answer(["upsert", folder, [point(6), point(7)]])
    engine.answer(["set_payload", folder, ALL, {"title": "T"}])
    engine.answer(["rescale", folder, 9, [[6, array("I", [9]).tobytes(), array("f", [2.0]).tobytes()], [99, b"", b""]]])
    offset, end = engine.answer(["replay", copy, journal, 0])
    assert end and offset == Path(journal).stat().st_size
    engine.answer(["delete", folder, recipe(Comparison(("scale",), Operator.EQ, 9.0))])
    assert engine.answer(["replay", copy, journal, offset])[1]
    engine.answer(["journal", folder, None])
    engine.answer(["upsert", folder, [point(8)]])
    everything = [sorted(engine.answer(["scroll", each, ALL, 100, None])) for each in (folder, copy)]
    assert [id_ for id_, _ in everything[0]] == ["1", "2", "3", "4", "5", "7", "8"]
    assert everything[1] == everything[0][:-1]


def test_the_shard_unused_for_longest_is_closed_for_another(engine: Engine, tmp_path: Path) -> None:
    folders = [created(engine, tmp_path / name) for name in "abc"]
    for folder in folders * 2:
        engine.answer(["upsert", folder, [point(1)]])
        assert engine.answer(["count", folder, ALL]) == 1
        assert len(engine._open) <= 2


def test_values_are_counted(engine: Engine, tmp_path: Path) -> None:
    folder = created(engine, tmp_path / "a")
    engine.answer(["upsert", folder, [point(1, length=3), point(2, length=3), point(3, length=5)]])
    assert engine.answer(["facet", folder, "length", 10]) == {3: 2, 5: 1}


def test_reads_go_before_writes_and_failures_are_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    engine = Engine(max_open=2)
    folder = created(engine, tmp_path / "a")
    serving = threading.Thread(target=serve, args=(theirs, engine))
    asked = [
        [0, "upsert", folder, [point(1)]],
        [1, "barrier", folder],
        [2, "count", folder, ALL],
        [3, "count", str(tmp_path / "none"), ALL],
        [4, "upsert", folder, [[1, array("f", [1.0]).tobytes(), b"", b"", {}]]],
    ]
    ours.sendall(b"".join(map(packed, asked)))  # all are waiting before the first is looked at
    serving.start()
    answers: list[Any] = []
    unframer = Unframer()
    while len(answers) < len(asked):
        answers += unframer.feed(ours.recv(2**16))
    ours.close()
    serving.join()
    theirs.close()
    engine.close()
    assert [answer[0] for answer in answers] == [2, 3, 0, 1, 4]
    by_id = {id_: rest for id_, *rest in answers}
    assert by_id[2] == [True, 0]
    assert by_id[3][:2] == [False, "missing"]
    assert by_id[4][:2] == [False, "failed"] and "dim" in by_id[4][2]


def test_a_read_that_nobody_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    engine = Engine(max_open=2)
    folder = created(engine, tmp_path / "a")
    serving = threading.Thread(target=serve, args=(theirs, engine))
    asked: list[list[Any]] = [
        [0, "upsert", folder, [point(1)]],
        [1, "search", folder, "which would fail"],
        [2, "barrier", folder],
        [1, FORGET],
        [0, FORGET],  # a write goes on
        [9, FORGET],  # answered long ago
    ]
    ours.sendall(b"".join(map(packed, asked)))
    serving.start()
    answers: list[Any] = []
    unframer = Unframer()
    while len(answers) < 3:
        answers += unframer.feed(ours.recv(2**16))
    ours.close()
    serving.join()
    theirs.close()
    assert engine.answer(["count", folder, ALL]) == 1
    engine.close()
    assert answers == [[1, False, "forgotten", ""], [0, True, None], [2, True, None]]


async def test_an_engine_is_told_what_nobody_waits_for_any_more() -> None:
    class Process:
        def wait(self) -> int:
            return 0

    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    told, telling = await asyncio.open_connection(sock=theirs)
    engine = EdgeEngine(Process(), reader, writer)  # type: ignore[arg-type]
    asking = asyncio.create_task(engine.request("count", "folder"))
    unframer, messages = Unframer(), []

    async def until(count: int) -> None:
        while len(messages) < count:
            messages.extend(unframer.feed(await told.read(2**16)))

    await until(1)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await until(2)
    assert messages == [[0, "count", "folder"], [0, FORGET]]
    telling.write(packed([0, False, "forgotten", ""]))
    await engine.idle()
    telling.close()
    await engine.stop()


def test_frames_may_come_in_any_pieces() -> None:
    sent = [["a", 1], {"b": b"\0" * 300}, None]
    stream = b"".join(map(packed, sent))
    unframer = Unframer()
    assert [message for at in range(len(stream)) for message in unframer.feed(stream[at : at + 1])] == sent
    assert unframer.consumed == len(stream)
    with pytest.raises(ValueError, match="frame"):
        list(Unframer().feed(b"\xff" * 8))


def test_a_copy_keeps_holes_and_content(tmp_path: Path) -> None:
    source = tmp_path / "a" / "deep"
    source.mkdir(parents=True)
    with (source / "sparse").open("wb") as file:
        file.seek(2**20)
        file.write(b"end")
        file.truncate(2**22)
    (source / "empty").touch()
    (source / "full").write_bytes(b"x" * 100_000)
    copy_tree(tmp_path / "a", tmp_path / "b")
    for name in ("sparse", "empty", "full"):
        assert (tmp_path / "b" / "deep" / name).read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "b" / "deep" / "sparse").stat().st_blocks * 512 < 2**20
