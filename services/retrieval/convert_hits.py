"""Hits as the contract's messages, of the fields that are asked for alone."""

from ragweave.v1 import search_pb2 as pb
from services.retrieval.masking import HitMask
from services.retrieval.ranking import Hit


def hit_to(hit: Hit, mask: HitMask, into: pb.Hit | None = None) -> pb.Hit:
    """The hit, of the fields of the mask.

    Args:
        into: An empty message to fill in. One that is new in its response need not be copied into it, which takes as
            long as making it.
    """
    found, chunk, document = hit.found, hit.found.chunk, hit.found.chunk.document
    message = pb.Hit() if into is None else into
    message.collection = f"collections/{hit.collection.collection_id}"
    message.document = name = f"{message.collection}/documents/{document.document_id}"
    message.chunk = f"{name}/chunks/{chunk.chunk_id}"
    message.score = found.score
    for stage in found.stages:
        message.scores.add(stage=stage.stage, score=stage.score, rank=stage.rank)
    message.text = chunk.text
    for start, end in hit.highlights:
        message.highlights.add(start_offset=start, end_offset=end)
    message.revision = document.revision
    message.content_hash = document.content_hash
    message.start_offset = chunk.start_offset
    message.end_offset = chunk.end_offset
    message.title = document.title
    message.source_uri = document.source_uri
    message.section = chunk.section
    message.page_number = chunk.page_number
    message.mime_type = document.mime_type
    for beside in hit.neighbors:
        message.neighbors.add(
            chunk=f"{name}/chunks/{beside.chunk_id}",
            text=beside.text,
            start_offset=beside.start_offset,
            end_offset=beside.end_offset,
        )
    if (similarity := found.similarity) is not None:
        message.similarity = similarity
    message.stitched_text = hit.stitched_text
    for field in mask.left_out:
        message.ClearField(field)  # type: ignore[arg-type]  # the stubs know each name alone
    if "metadata" in mask:
        message.metadata.update(mask.of_metadata(document.metadata))
    return message
