"""The Tokenizer port over a model's own tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer


class HuggingFaceTokenizer:
    """Counts as the model does, but never truncates or pads as the file may ask for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(Tokenizer.from_file(str(path)))

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [encoding.offsets for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts))]
