"""Which reranking models there are, and how they are reached, as the environment says it."""

from pathlib import Path

import pytest

from services.embedding.rerank_sources import Kind, RerankSource
from services.embedding.settings import Settings
from services.mesh.settings import BadSettings, read

MODELS, KEYS = "RAGWEAVE_EMBEDDING_RERANK_MODELS", "RAGWEAVE_EMBEDDING_RERANK_KEYS"


def test_none_are_configured_by_default() -> None:
    assert read(Settings).rerank_models == ()


def test_folders_and_endpoints_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = (
        "ms-marco=/models/ms-marco, rerank-v3.5=https://api.cohere.com/v2,"
        "bge=http://10.0.0.7:8000/v1/rerank?model=BAAI/bge-reranker-v2-m3,tei=tei+http://tei:8080/"
    )
    monkeypatch.setenv(MODELS, listed)
    assert read(Settings).rerank_models == (
        RerankSource("ms-marco", Kind.ONNX, "/models/ms-marco"),
        RerankSource("rerank-v3.5", Kind.COHERE, "https://api.cohere.com/v2/rerank", "rerank-v3.5"),
        RerankSource("bge", Kind.COHERE, "http://10.0.0.7:8000/v1/rerank", "BAAI/bge-reranker-v2-m3"),
        RerankSource("tei", Kind.TEI, "http://tei:8080/rerank", "tei"),
    )


@pytest.mark.parametrize(
    "listed",
    [
        "/models/x",
        "x=models/x",
        "x=",
        "a b=/x",
        "x=ftp://host/x",
        "x=https://",
        "x=https://host:port/v1",
        "x=https://host/v1?key=sw0rdfish",
        "x=https://host/v1#sw0rdfish",
        "x=https://user:sw0rdfish@host/v1",
        "x=/a,x=/b",
    ],
)
def test_what_is_none_of_these_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setenv(MODELS, listed)
    with pytest.raises(BadSettings, match=f"^{MODELS}: ") as caught:
        read(Settings)
    assert "sw0rdfish" not in str(caught.value)


def test_keys_are_files_of_models_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS, "a=https://a/v1,b=https://b/v1")
    monkeypatch.setenv(KEYS, "b=/run/secrets/b")
    assert read(Settings).rerank_keys == {"b": Path("/run/secrets/b")}
    for wrong in ("c=/run/secrets/c", "b=secret", "b"):
        monkeypatch.setenv(KEYS, wrong)
        with pytest.raises(BadSettings, match=KEYS):
            read(Settings)
