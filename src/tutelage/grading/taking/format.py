"""Where the boxes of a text stand, and whether the last one is all that the text says."""

from __future__ import annotations

import re

from tutelage.grading.wording.units import is_unit
from tutelage.grading.wording.vocabulary import changed, words_of

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


# ── what stands around a box: words that leave its content what it is, or mathematics of which it is only a part ──────────

MARKUP = re.compile(
    rf"\\(?:[()\[\],;:!\\ ]|q?quad(?![a-z])|displaystyle|(?:{TEXT_COMMANDS})(?![A-Za-z])|(?:begin|end)\s*\{{[^{{}}]*\}})|[${{}}*&]"
)
"""What only says how a text looks."""
_STYLES = re.compile(rf"\\(?:{TEXT_COMMANDS}|textcolor|color|displaystyle|ensuremath)\s*(?:\{{\w+\}})?\s*$")
_ARROWS = re.compile(r"\\(?:Rightarrow|Longrightarrow|implies|therefore|to|(?<!\\not\\)in|ldots)\s*$")


def stands_alone(text: str) -> bool:
    """Whether the last box of a text is the answer that it gives: 5^{\\boxed{3}}, half of \\boxed{3} and \\boxed{3} squared are others."""
    found = boxes(text)
    start, end, content = found[-1]
    if not content or "\\boxed" in content or _inside(text[:start]):
        return False
    return _leads(text[:start]) and _follows(text[end:])


def _inside(before: str) -> bool:
    """A brace is open, and not one of \\text{ or \\color{red}{."""
    opened: list[int] = []
    for index, character in enumerate(before):
        if character == "{" and before[index - 1 : index] != "\\":
            opened.append(index)
        elif character == "}" and opened and before[index - 1] != "\\":
            opened.pop()
    return any(before[:index].strip(" $") and not _STYLES.search(before[:index]) for index in opened)


def _leads(before: str) -> bool:
    plain = MARKUP.sub(" ", before).rstrip()
    if not plain or (_ARROWS.search(plain) and not changed(words_of(plain[-60:]))):
        return True
    if re.search(r"\d[.,]$", plain):
        return False
    words = words_of(re.sub(r"\\[A-Za-z]+", " ", plain[-60:]))
    if re.search(r"(?:^|[\s\"(])(?:[^\W\d_]{2,}|a|an)$", plain) is not None and before[-1:] in " $\n{[(*~":
        return not changed(words[-3:])
    introduces = re.search(r"(?<![<>!])[=:,.;。：，]$|(?:^|\s)\($|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]$", plain)
    return introduces is not None and not changed(words[-2:])


def _follows(behind: str) -> bool:
    plain = MARKUP.sub(" ", behind)
    rest = plain.strip()
    if not rest.strip(" .,;:)!"):
        return "!" not in rest[:1] and not rest.startswith(")!")
    if re.match(r"\W*or\b", rest) or re.match(r"[.,;:)]+\s|[^\W\d_]{2}|[^\x00-\x7f]", rest) is None:
        return False
    if plain[0].isalnum() and plain[0].isascii():
        return False
    return re.search(r"[\d=<>^_/+|\\~&%]|\s[-*]\s", rest) is None and (not changed(words_of(rest)) or is_unit(words_of(rest), False))
