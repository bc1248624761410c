"""Chinese, Japanese and Korean around an answer: 答案是12, 12个, 3或4, 정답은 12입니다."""

from __future__ import annotations

import re
from decimal import Decimal

from tutelage.grading.wording.units import unit_of
from tutelage.grading.wording.vocabulary import listed, replacements

_EAST = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_RUN = re.compile(f"[{_EAST}]+(?:/[{_EAST}]+)*")
_SAYS = re.compile(f"(?:(?:{'|'.join(sorted(listed('eastern words'), key=len, reverse=True))})/?)+")
"""Words that may stand around a value; any other run of characters leaves a text unread."""
_NAME = r"[A-Za-z](?:\([a-z]\))?|\\triangle\s*|△|\\?\{[a-z]_\{?n\}?\\?\}"
_SUBJECT = re.compile(
    rf"\s*(?:{_NAME}|[{_EAST}$\s]){{1,20}}?(?:是|为|等于)\s*:?\s*"
    f"|(?:[该此这]个?[{_EAST}]{{2}}|函数|数列|直线|两圆|它们?)?(?:{_NAME})?(?:在[^是为]{{1,8}}上|与[{_EAST}])?(?=[{_EAST}]{{2,4}}[.。]?$)"
)
"""A noun phrase before a copula, or before what is said of it (该命题正确)."""
_OR = re.compile(f"(?<=[^{_EAST}])\\s*(?:或者|或|または|또는)\\s*(?=[^{_EAST}])")
_AND = re.compile(f"(?<=[^{_EAST}])\\s*(?:以及|和|与|及|と|와)\\s*(?=[^{_EAST}])")
_UNIT_BEHIND = re.compile(f"[\\s${{}}]*(?:\\\\text\\s*\\{{)?\\s*({_RUN.pattern})")
_UNIT = "|".join(replacements("eastern units"))
_MIXED = re.compile(rf"(?:\d[\d.]*(?:{_UNIT})){{2,}}")
_UNSURE = re.compile("不(?!等式)|[非没无未否或若约近倍除能假且]|至[多少]|[大小多少]于|错误|如果|左右|以|超过")
_MYRIADS = re.compile("(?<![\\d.,万亿千百])(\\d+(?:\\.\\d+)?)(万亿|亿|万|千(?![米克瓦卡])|百(?!分))(?!\\d)")
_SIZES = {"百": 100, "千": 1_000, "万": 10**4, "亿": 10**8, "万亿": 10**12}
_NOTHING = re.compile("(?:方程)?(?:无解|無解|无实数解|无实根|해가 ?없다|解なし)")


def translated(text: str) -> str:
    """The value that a text says, where it is the only one and no word changes it; the text itself otherwise."""
    if text.isascii() or not _RUN.search(text):
        return text
    if _NOTHING.fullmatch(text.strip(" .")):
        return "\\emptyset"
    text = text.replace("米每", "米/")
    if _MIXED.fullmatch(text):  # 2小时30分钟
        return re.sub(_UNIT, lambda found: rf"\text{{ {unit_of(found[0])}}} ", text)
    text = _MYRIADS.sub(lambda found: format((Decimal(found[1]) * _SIZES[found[2]]).normalize(), "f"), text)  # 2.5万 is 25000
    subject = _SUBJECT.match(text)
    if subject is not None and subject[0] and not _UNSURE.search(subject[0]) and text[subject.end() :].strip(" $"):
        text = text[subject.end() :]
        if not _RUN.search(text) or _RUN.fullmatch(text.strip(" .")):
            return text.strip(" .")
    text = _AND.sub(", ", _OR.sub(" or ", text))
    parts = [part.strip(" ,.:;$") for part in _RUN.split(text.replace("\\text{", " ").replace("\\text {", " ")) if part.strip(" ,.:;${}")]
    runs = _RUN.findall(text)
    if len(parts) != 1 or not all(map(_SAYS.fullmatch, runs)):
        return text
    behind = _UNIT_BEHIND.match(text, text.rindex(parts[0]) + len(parts[0]))
    unit = unit_of(behind[1]) if behind is not None else ""
    part = parts[0].rstrip("}") if parts[0].count("}") > parts[0].count("{") else parts[0]
    return f"{part}\\text{{ {unit}}}" if unit and part[-1:].isdigit() else part

