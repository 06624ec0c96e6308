"""Ours and the peers, 16 callers at a time: text in and hits out, by the same model, over the same 10,000 chunks."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import Final, Protocol, Self

from benchmarks.measure import Measured, measure, never_repeated
from benchmarks.peers import corpus, ours, servers
from benchmarks.peers.doors import TOP, Door, Hit
from benchmarks.peers.exact import Exact
from benchmarks.peers.questions import ZipfLog
from benchmarks.peers.servers import CHROMA, ENVIRONMENTS, HAYSTACK, Hall, PeerMissing
from benchmarks.plan import Plan
from benchmarks.results import Bar, Outcome, Table
from benchmarks.rig import Rig

CHUNKS: Final = 10_000
CALLERS: Final = 16
_PEERS: Final = (CHROMA, HAYSTACK)
_COMPARED: Final = 200
_ABOUT: Final = (
    "Everybody holds the same {chunks:,} chunks (texts that come with Python, SQLAlchemy and NumPy, of at most 500 "
    "characters), reads the same files of the model, runs it on one thread a question and on two questions at a time, "
    "and answers a question in words with the ids, texts and scores of ten hits over HTTP/1.1. All run all the "
    "time, and are asked in turns. Ours is asked by REST through the edge as shipped: with authentication, validation, "
    "rate limits, and 1 % of traces recorded; `dense` is what the peers do, `hybrid` what is done unless one says "
    "otherwise. {chroma}: `chroma run`, whose clients bring the vectors, and before it a FastAPI service of a process "
    "that does so, by Chroma's own client. {haystack}: Hayhooks with one pipeline, of the model and a FAISS "
    "store (exact); the InMemoryDocumentStore of Haystack makes an array of all vectors anew for each question, and is "
    "many times slower. Everybody writes the logs that it writes unless told otherwise. The query log goes on from "
    "round to round, and each contestant has one of its own, as never repeated questions are others for each."
)
_TITLE: Final = (
    f"What {_COMPARED} questions found before the load, of the {TOP} nearest chunks by exact search over the vectors "
    "(hybrid goes by words, too); and the Zipf-shaped logs, each of 1,000 questions"
)
_COLUMNS: Final = ("", "of the exact ten", "bytes an answer", "searches of the log", "of them repeats")


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Both logs; without the peers' environments nothing but the bar that could not be measured."""
    try:
        servers.require()
    except PeerMissing as missing:
        return Outcome(str(missing), bars=[Bar(4, "against every peer", str(missing), None)])
    chunks = corpus.chunks(chunk_count(rig))
    words = corpus.words(chunks)
    zipf, never = ZipfLog(words, rig.seed), never_repeated(words, rig.seed)
    some = list(islice(never("everybody", 0), _COMPARED))
    exact = await Exact.of(chunks, ENVIRONMENTS)
    async with _open(rig, exact) as doors:
        found = [await Found.by(door, exact, some) for door in doors]
        measures = [
            await measure(
                name,
                [door.contestant for door in doors],
                log,
                callers=CALLERS,
                against=dict.fromkeys(ours.MODES, CHROMA),
                **plan.rounds_and_seconds,
            )
            for name, log in (("Zipf-shaped log", zipf), ("never repeated", never))
        ]
    chroma = servers.pinned(CHROMA, "chromadb")
    haystack = servers.pinned(HAYSTACK, "haystack-ai", "hayhooks", "faiss-cpu")
    about = _ABOUT.format(chunks=len(chunks), chroma=chroma, haystack=haystack)
    return Outcome(about, measures, bars(*measures), [Table(_TITLE, _COLUMNS, [_row(each, zipf) for each in found])])


def chunk_count(rig: Rig) -> int:
    """Of the corpus; for a quick look as many chunks as documents are asked for, but enough to answer by."""
    return CHUNKS if rig.documents is None else max(rig.documents, 5 * TOP)


def bars(zipf: Measured, never: Measured) -> Sequence[Bar]:
    """What is asked against each peer, and what it came to."""
    made = []
    for peer in _PEERS:
        for mode in ours.MODES:
            often, rarely = (each.ratio(mode, "per_s", peer) for each in (zipf, never))
            late = zipf.ratio(mode, "p95_ms", peer)
            beside = f"{mode}, against {peer}"
            made += [
                Bar(4, f"{beside}, Zipf-shaped log: 2x its requests a second", f"{often:.2f}x", often >= 2),
                Bar(4, f"{beside}, Zipf-shaped log: half its p95", f"{late:.2f}x", late <= 0.5),
                Bar(4, f"{beside}, never repeated: 1.2x its requests a second", f"{rarely:.2f}x", rarely >= 1.2),
            ]
    return made


class Asked(Protocol):
    """Who answers questions, as Door does."""

    @property
    def name(self) -> str: ...

    async def ask(self, questions: Sequence[str]) -> list[tuple[int, list[Hit]]]: ...


@dataclass(frozen=True)
class Found:
    """How a contestant answered questions that everybody was asked before the load.

    Attributes:
        exact: Share of the chunks most like the question by the model's vectors that were among its hits.
        length: Bytes of an answer.
    """

    name: str
    exact: float
    length: float

    @classmethod
    async def by(cls, door: Asked, exact: Exact, questions: Sequence[str]) -> Self:
        """Raises RuntimeError where an answer has fewer hits than asked for, or a text that is not the chunk's."""
        texts = {chunk.id: chunk.text for chunk in exact.chunks}
        answers, nearest = await door.ask(questions), await exact.nearest(questions, TOP)
        for question, (_, hits) in zip(questions, answers, strict=True):
            if len({hit.id for hit in hits}) != TOP or any(texts.get(hit.id) != hit.text for hit in hits):
                raise RuntimeError(f"{door.name} answers {question!r} by {hits}")
        shared = [len(best & {hit.id for hit in hits}) / TOP for best, (_, hits) in zip(nearest, answers, strict=True)]
        return cls(door.name, mean(shared), mean(length for length, _ in answers))


@asynccontextmanager
async def _open(rig: Rig, exact: Exact) -> AsyncIterator[list[Door]]:
    """Everybody, with the chunks, ready to be asked."""
    hall = Hall.with_corpus(rig.folder / "peers", exact)
    async with AsyncExitStack() as open_:
        peers = [await open_.enter_async_context(each) for each in (hall.chroma(), hall.haystack())]
        yield [*ours.doors(rig, exact.chunks), *peers]


def _row(found: Found, log: ZipfLog) -> list[str]:
    length, repeated = log.asked(found.name)
    return [found.name, f"{found.exact:.1%}", f"{found.length:,.0f}", f"{length:,}", f"{repeated:.1%}"]
