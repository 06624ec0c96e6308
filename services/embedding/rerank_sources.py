"""Where reranking models are: a folder, or an endpoint and how it is spoken to."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

_ENTRY: Final = re.compile(r"(?P<model>[A-Za-z0-9_.-]{1,128})=(?P<place>\S+)")
_TAKES: Final = "takes model=/folder, model=https://host/v1 or model=tei+https://host, separated by commas"


class Kind(StrEnum):
    """What runs a model: onnxruntime here, an endpoint like Cohere's, or Text Embeddings Inference."""

    ONNX = "onnx"
    COHERE = "cohere"
    TEI = "tei"


@dataclass(frozen=True, slots=True)
class RerankSource:
    """One reranking model.

    Attributes:
        model: Its id here.
        place: A folder, or the URL that is posted to.
        remote_model: What an endpoint calls it.
    """

    model: str
    kind: Kind
    place: str
    remote_model: str = ""


def sources_from(text: str) -> tuple[RerankSource, ...]:
    """`model=/folder,model=URL,...`; of a URL, `?model=` is the endpoint's own name of the model.

    Raises:
        ValueError: Saying what is wrong, quoting nothing of it.
    """
    sources = tuple(_source(model, place) for model, place in _entries(text))
    if len({each.model for each in sources}) < len(sources):
        raise ValueError("two models have the same id")
    return sources


def key_files_from(text: str) -> dict[str, Path]:
    """`model=/file,...`, each a file with the API key of a model's endpoint. Raises ValueError as sources_from does."""
    files = {model: Path(place) for model, place in _entries(text)}
    if not all(path.is_absolute() for path in files.values()):
        raise ValueError("takes model=/file with an absolute path, separated by commas")
    return files


def _entries(text: str) -> list[tuple[str, str]]:
    found = [_ENTRY.fullmatch(part.strip()) for part in text.split(",") if part.strip()]
    entries = [(each["model"], each["place"]) for each in found if each]
    if len(entries) < len(found):
        raise ValueError(_TAKES)
    return entries


def _source(model: str, place: str) -> RerankSource:
    if place.startswith("/"):
        return RerankSource(model, Kind.ONNX, place)
    kind = Kind.TEI if place.startswith("tei+") else Kind.COHERE
    try:
        parts = urlsplit(place.removeprefix("tei+"))
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        _ = parts.port
    except ValueError:
        raise ValueError(_TAKES) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or query.keys() - {"model"}:
        raise ValueError(_TAKES)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL holds no password: give the key by RAGWEAVE_EMBEDDING_RERANK_KEYS")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/rerank')}/rerank"
    return RerankSource(model, kind, url, query.get("model", [model])[0])
