"""Where the answer stands in a response."""

from __future__ import annotations

import re

TEXT_COMMANDS = "text|textbf|textit|textrm|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathcal|boldsymbol|emph|bf|rm"
"""LaTeX commands that only say how their argument looks."""


def tagged_answer(response: str) -> str | None:
    """The text of the answer block, or None if the response is not one think block followed by one answer block.

    The rule: each tag occurs once (the opening ``<think>`` may stand in the prompt instead), in this order; before the think
    block, between the blocks and after the answer block there is white space or nothing.
    """
    text = response.strip()
    if text.startswith("<think>"):
        text = text[len("<think>") :]
    if "<think>" in text or any(text.count(tag) != 1 for tag in ("</think>", "<answer>", "</answer>")):
        return None
    _thought, _, rest = text.partition("</think>")
    before, _, rest = rest.partition("<answer>")
    answer, closed, after = rest.partition("</answer>")
    return answer.strip() if closed and not before.strip() and not after.strip() else None


def boxed_answer(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` with balanced braces (or of ``\\boxed 5``, as MATH writes at times), or None."""
    found = boxes(text)
    return found[-1][2] if found else None


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of each outermost box; none if the last one is not closed."""
    found, end = [], 0
    for match in _BOX.finditer(text):
        if match.start() < end:
            continue
        if match[0].endswith("{"):
            close = closing_brace(text, match.end() - 1)
            if close < 0:
                return []
            found.append((match.start(), close + 1, text[match.end() : close].strip()))
        else:
            found.append((match.start(), match.end(), match[1].rstrip(".,")))
        end = found[-1][1]
    return found


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?<=\s)([^\s${}]+))")


def closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`, or -1."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] in "{}" and (index == 0 or text[index - 1] != "\\"):
            depth += 1 if text[index] == "{" else -1
            if depth == 0:
                return index
    return -1
