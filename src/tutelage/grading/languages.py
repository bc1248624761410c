"""Chinese, Japanese and Korean around an answer: 答案是12, 12个, 3或4, 정답은 12입니다."""

from __future__ import annotations

import re

from tutelage.grading.units import unit_of

_EAST = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_RUN = re.compile(f"[{_EAST}]+")
_CHANGES = re.compile(
    "[不非没无未否错误约余超几半倍万千百亿多少双负加减乘除零一二两三四五六七八九十]|大于|小于|至少|至多|以上|以下|左右|大概|近似|分之|百分"
    "|平方(?![米厘分千公毫])|立方(?![米厘分毫])|倒数|根号|相反数|约数|因数|倍数|以内|不到|第|ない|ません|約|以外|間違|아니|아님|않|없|약"
)
_NOTHING = re.compile("(?:方程)?(?:无解|無解|无实数解|无实根|해가 ?없다|解なし)")


def translated(text: str) -> str:
    """The value that a text says, where it is the only one and no word changes it; the text itself otherwise."""
    if text.isascii() or not _RUN.search(text):
        return text
    if _NOTHING.fullmatch(text.strip(" .")):
        return "\\emptyset"
    text = re.sub(f"(?<=[^{_EAST}])\\s*(?:或者|或|または|또는)\\s*(?=[^{_EAST}])", " or ", text)
    text = re.sub(f"(?<=[^{_EAST}])\\s*(?:以及|和|与|及|と|와)\\s*(?=[^{_EAST}])", ", ", text)
    parts = [part.strip(" ,.:;$") for part in _RUN.split(text.replace("\\text{", " ").replace("\\text {", " ")) if part.strip(" ,.:;${}")]
    runs = _RUN.findall(text)
    if len(parts) != 1 or any(_CHANGES.search(_known_only(run)) for run in runs):
        return text
    behind = re.match(f"[\\s${{}}]*(?:\\\\text\\s*\\{{)?\\s*([{_EAST}]+)", text[text.rindex(parts[0]) + len(parts[0]) :])
    unit = unit_of(behind[1]) if behind is not None else ""
    part = parts[0].rstrip("}") if parts[0].count("}") > parts[0].count("{") else parts[0]
    return f"{part}\\text{{ {unit}}}" if unit and part[-1:].isdigit() else part


def _known_only(run: str) -> str:
    """A run without 千米, 千克 and 百分号, whose characters are no numbers."""
    return re.sub("千米|千克|无论|一共|唯一|一定|三角形|四边形", "", run)
