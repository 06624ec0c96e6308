"""Hits as the contract's messages, of the fields that are asked for alone."""

from ragweave.v1 import search_pb2 as pb
from services.retrieval.masking import HitMask
from services.retrieval.ranking import Hit


def hit_to(hit: Hit, mask: HitMask) -> pb.Hit:
    """The hit, of the fields of the mask."""
    chunk, document = hit.found.chunk, hit.found.chunk.document
    collection = f"collections/{hit.collection.collection_id}"
    name = f"{collection}/documents/{document.document_id}"
    message = pb.Hit(
        chunk=f"{name}/chunks/{chunk.chunk_id}",
        document=name,
        collection=collection,
        score=hit.found.score,
        scores=[pb.Hit.StageScore(stage=each.stage, score=each.score, rank=each.rank) for each in hit.found.stages],
        text=chunk.text,
        highlights=[pb.Hit.Highlight(start_offset=start, end_offset=end) for start, end in hit.highlights],
        revision=document.revision,
        content_hash=document.content_hash,
        start_offset=chunk.start_offset,
        end_offset=chunk.end_offset,
        title=document.title,
        source_uri=document.source_uri,
        section=chunk.section,
        page_number=chunk.page_number,
        mime_type=document.mime_type,
        neighbors=[
            pb.Hit.Neighbor(
                chunk=f"{name}/chunks/{each.chunk_id}",
                text=each.text,
                start_offset=each.start_offset,
                end_offset=each.end_offset,
            )
            for each in hit.neighbors
        ],
        similarity=hit.found.similarity,
        stitched_text=hit.stitched_text,
    )
    for field in mask.left_out:
        message.ClearField(field)  # type: ignore[arg-type]  # the stubs know each name alone
    if "metadata" in mask:
        message.metadata.update(mask.of_metadata(document.metadata))
    return message
