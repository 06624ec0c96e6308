"""How an answer came about, as a message."""

from typing import Final

from ragweave.v1 import search_pb2 as pb
from services.mesh.convert_times import duration_to
from services.mesh.filters import canonical, unparse
from services.retrieval.explaining import Explanation
from services.retrieval.stages import Ran

_BY_MODEL: Final = ("embed", "rerank")


def explanation_to(made: Explanation) -> pb.SearchResponse.Explanation:
    return pb.SearchResponse.Explanation(
        stages=map(stage_to, made.stages),
        collections=[
            pb.SearchResponse.Explanation.Searched(
                collection=f"collections/{each.collection.collection_id}",
                index_revision=each.revision,
                embedding_model=each.collection.embedding_model,
            )
            for each in made.searched
        ],
        mode=pb.SearchRequest.Mode.Value(made.mode.name),
        filter=unparse(canonical(made.filter)),
    )


def stage_to(ran: Ran) -> pb.SearchResponse.Explanation.Stage:
    by_model = ran.stage in _BY_MODEL
    return pb.SearchResponse.Explanation.Stage(
        stage=ran.stage,
        collection=f"collections/{ran.of}" if ran.of and not by_model else "",
        candidates=ran.candidates,
        duration=None if ran.duration_s is None else duration_to(ran.duration_s),
        budget=None if ran.budget_s is None else duration_to(ran.budget_s),
        model=f"models/{ran.of.removeprefix('models/')}" if ran.of and by_model else "",
        detail=ran.detail,
    )
