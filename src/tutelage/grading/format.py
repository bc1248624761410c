"""Where the boxes of a text stand."""

from __future__ import annotations

import re

TEXT_COMMANDS = "text|textbf|textit|textrm|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathcal|boldsymbol|emph|bf|rm"
"""LaTeX commands that only say how their argument looks."""


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
