"""Columns of texts on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_text(column: pa.ChunkedArray, text: str) -> np.ndarray:
    """(rows,) bool: where a column of texts holds a text."""
    return pc.equal(column, text).combine_chunks().to_numpy(zero_copy_only=False)


class Texts(Sequence[str]):
    """An Arrow array of texts, as a list of them."""

    def __init__(self, texts: pa.StringArray) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        found = self.texts[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()
