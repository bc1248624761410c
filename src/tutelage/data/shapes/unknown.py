"""What is said of rows of no known shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tutelage.data.shapes.works import LONG

KNOWN = "messages; or prompt, question or problem, with a response, a solution or an answer"
_BEGINNINGS = (
    "<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n", "[/INST]", "<|assistant|>\n",
    "<\uff5cAssistant\uff5c>", "### Response:", "### Answer:", "### Assistant:", "### Solution:", "\nAssistant:", "\nAnswer:",
    "\nSolution:", "\nA:", "Answer:",
)  # fmt: skip
"""What people write where a response begins; the last one is for texts that have none of them."""


def no_shape(row: Mapping[str, Any]) -> str:
    """The sentence that a row's columns tell neither a prompt nor a response. A text alone is split by a function, which is shown."""
    keys = sorted(map(str, row))
    if len(row) == 1 and isinstance(text := row[keys[0]], str) and len(text) >= LONG:
        mark = next((each for each in _BEGINNINGS if each in text), _BEGINNINGS[-1])
        return (
            f"keys {keys} are of no known shape: a text alone does not say where its response begins. A function can; write"
            ' data.shape = "shape:split", and a file shape.py where you run:\n'
            f"def split(row):\n    prompt, mark, response = row[{json.dumps(keys[0])}].rpartition({json.dumps(mark)})\n"
            '    return {"prompt": prompt + mark, "response": response}'
        )
    return f"keys {keys} are of no known shape ({KNOWN}): name them in data.columns, or read them by a function (data.shape)"
