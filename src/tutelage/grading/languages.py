"""Chinese, Japanese and Korean around an answer: 答案是12, 12个, 3或4, 정답은 12입니다."""

from __future__ import annotations

import re

from tutelage.grading.units import unit_of
from tutelage.grading.vocabulary import listed

_EAST = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_RUN = re.compile(f"[{_EAST}]+")
_SAYS = re.compile(f"(?:{'|'.join(sorted(listed('eastern words'), key=len, reverse=True))})+")
"""Words that may stand around a value; any other run of characters leaves a text unread."""
_SUBJECT = re.compile(
    f"\\s*(?:[$]?[A-Za-z]\\([A-Za-z]\\)[$]?\\s*|[{_EAST}][{_EAST}A-Z]{{0,11}}?)(?:是|为|等于)\\s*:?\\s*|[该此这](?:个)?[{_EAST}]{{2}}(?=[{_EAST}]{{2}})"
)
"""A noun phrase before a copula, or "this statement" before what is said of it."""
_UNSURE = re.compile("不(?!等式)|[非没无未否或若约近倍除能假且]|至[多少]|[大小多少]于|错误|如果|左右|以|超过")
_NOTHING = re.compile("(?:方程)?(?:无解|無解|无实数解|无实根|해가 ?없다|解なし)")


def translated(text: str) -> str:
    """The value that a text says, where it is the only one and no word changes it; the text itself otherwise."""
    if text.isascii() or not _RUN.search(text):
        return text
    if _NOTHING.fullmatch(text.strip(" .")):
        return "\\emptyset"
    subject = _SUBJECT.match(text)
    if subject is not None and not _UNSURE.search(subject[0]) and text[subject.end() :].strip(" $"):
        text = text[subject.end() :]
        if not _RUN.search(text) or _RUN.fullmatch(text.strip(" .")):
            return text.strip(" .")
    text = re.sub(f"(?<=[^{_EAST}])\\s*(?:或者|或|または|또는)\\s*(?=[^{_EAST}])", " or ", text)
    text = re.sub(f"(?<=[^{_EAST}])\\s*(?:以及|和|与|及|と|와)\\s*(?=[^{_EAST}])", ", ", text)
    parts = [part.strip(" ,.:;$") for part in _RUN.split(text.replace("\\text{", " ").replace("\\text {", " ")) if part.strip(" ,.:;${}")]
    runs = _RUN.findall(text)
    if len(parts) != 1 or not all(map(_SAYS.fullmatch, runs)):
        return text
    behind = re.match(f"[\\s${{}}]*(?:\\\\text\\s*\\{{)?\\s*([{_EAST}]+)", text[text.rindex(parts[0]) + len(parts[0]) :])
    unit = unit_of(behind[1]) if behind is not None else ""
    part = parts[0].rstrip("}") if parts[0].count("}") > parts[0].count("{") else parts[0]
    return f"{part}\\text{{ {unit}}}" if unit and part[-1:].isdigit() else part

