"""Chinese, Japanese and Korean around an answer: 答案是12, 12个, 3或4, 정답은 12입니다."""

from __future__ import annotations

import re

from tutelage.grading.units import unit_of

_EAST = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_RUN = re.compile(f"[{_EAST}]+")
_SAYS = re.compile(
    "(?:故?答案?|正确|最终|最后|最大|最小|结果|答|解|为|是|等于|得到?|所以|因此|因而|故|则|即|可得|综上|一共|总共|共|有|总数|总和|唯一|一定|值|和|差|积|商|填|选择?|选项"
    "|面积|体积|周长|长度|宽度|高度|速度|时间|距离|概率|方程|的|应该?|需要|点|和为|最終|答えは?|合計|は|です|である|になります|정답|답|은|는|입니다|이다|총"
    "|(?:平方|立方)(?=[米千厘分毫公])|千米|公里|厘米|毫米|分米|米|千克|公斤|毫升|升|克|小时|分钟|秒|元|角|分|吨|个|個|種|种|次|人|岁|歳|本|只|匹|条|支|张|枚|天|日|年|块|棵|头|辆|名|位|页|件|度"
    "|方法|通り|円|つ|개|명|원|마리|가지|방법|办法|学生|同学|苹果|不同|人民币|美元|欧元|英镑|日元)+"
)
"""The words that may stand around a value; any other run of characters leaves a text unread."""
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
    if len(parts) != 1 or not all(map(_SAYS.fullmatch, runs)):
        return text
    behind = re.match(f"[\\s${{}}]*(?:\\\\text\\s*\\{{)?\\s*([{_EAST}]+)", text[text.rindex(parts[0]) + len(parts[0]) :])
    unit = unit_of(behind[1]) if behind is not None else ""
    part = parts[0].rstrip("}") if parts[0].count("}") > parts[0].count("{") else parts[0]
    return f"{part}\\text{{ {unit}}}" if unit and part[-1:].isdigit() else part

