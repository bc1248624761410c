"""Answers in other languages than English: 答案是三十六, 3或4, 정답은 12입니다, zwölf, trois quarts, x = 2 ou x = 3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from tutelage.grading.wording.notations import Match, rewritten, table
from tutelage.grading.wording.phrases import LONGEST
from tutelage.grading.wording.prose import is_subject
from tutelage.grading.wording.units import unit_of
from tutelage.grading.wording.vocabulary import LONGEST_NUMBER, doubted, listed, replacements, words_of


def _any_of(words: Iterable[str]) -> str:
    """A pattern of any of the words, longer ones before their parts."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_EAST = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_RUN = re.compile(f"[{_EAST}]+(?:/[{_EAST}]+)*")
_MEASURES = listed("eastern words") | replacements("eastern units").keys() - {"平方", "立方"}
_SAYS = re.compile(f"(?:{_any_of(_MEASURES)}|[平立]方(?=[千公厘毫分米])|/时?)++")
"""Words that may stand around a value; any other run of characters leaves a text unread."""
_NAME = r"[A-Za-z](?:\([a-z]\))?|\\triangle\s*|△|\\?\{[a-z]_\{?n\}?\\?\}"
_SUBJECT = re.compile(
    rf"\s*(?:{_NAME}|[{_EAST}$\s]){{1,20}}?(?:是|为|等于|(?:(?<!所)有|相距|剩下?|共|需要?|[走跑花用买卖赚][了过]?)(?=\s*[\d$\\]))\s*:?\s*"
    f"|(?:[该此这]个?[{_EAST}]{{2}}|函数|数列|直线|两圆|它们?)?(?:{_NAME})?(?:在[^是为]{{1,8}}上|与[{_EAST}])?(?=[{_EAST}]{{2,4}}[.。]?$)(?!选项|的)"
)
"""A noun phrase before a copula, or before what is said of it (该命题正确)."""
_BETWEEN = table(
    *(
        ("", f"(?<=[^{_EAST}])\\s*(?:{words})\\s*(?=[^{_EAST}])", meaning)
        for words, meaning in (("或者?|または|또는", " or "), ("[且并]且?", " and "), ("以及|和|与|及|と|와", ", "))
    )
)
_UNIT_BEHIND = re.compile(f"[\\s${{}}]*([{_EAST}/]+)")
_UNSURE = re.compile(
    "不(?!等式)|[非没无未否或若约近倍除能假且半]|至[多少]|[大小多少]于|错误|如果|左右|(?<!所)以|超过|[平立]方(?!和|差|数)|相反|倒数|分之|也许|估|预计|错|舍|增根|起码|大致|恐|减去|似乎|好像|[说猜]"
)
_NOTHING = re.compile(
    "(?:[原该此]?(?:方程|不等式)组?)?(?:[无無]解|无实数?[解根]|没有(?:实数)?[解根])|空集合?|解なし|해가 ?없(?:다|습니다)|해 ?없음|공집합"
)
_WHOLE = replacements("whole answers")
_UNIT = _any_of(replacements("eastern units"))
_MIXED = re.compile(rf"(?:\d[\d.]*(?:{_UNIT})){{2,}}")


def translated(text: str) -> str:
    """The value that a text says, where it is the only one and no word changes it; the text itself otherwise."""
    if text.isascii() or not _RUN.search(text):
        return _WHOLE.get(text.strip()) or _european(text)
    text = re.sub(f"^\\(([{_EAST}])\\)$", r"\1", re.sub("[【】]", " ", text).strip(" ."))  # the choice (ウ)
    if _NOTHING.fullmatch(text):
        return "\\emptyset"
    text = _NUMERAL.sub(lambda found: _digits(found[0]), rewritten(_WHOLE.get(text, text), _EASTERN))
    if _MIXED.fullmatch(text):  # 2小时30分钟
        return re.sub(_UNIT, lambda found: rf"\text{{ {unit_of(found[0])}}} ", text)
    if re.search("的(?:和|差|积|商)$", text.strip(" .")):  # 3和5的积
        return text
    subject = _SUBJECT.match(text)
    if subject is not None and subject[0] and not _UNSURE.search(subject[0]) and text[subject.end() :].strip(" $"):
        text = text[subject.end() :]
        if not _RUN.search(text) or _RUN.fullmatch(text.strip(" .")):
            return _WHOLE.get(text, text)
    text = rewritten(text, _BETWEEN)
    bare, runs = re.sub(r"\\text ?\{", " ", text), _RUN.findall(text)
    parts = [part.strip(" ,.:;$") for part in _RUN.split(bare) if part.strip(" ,.:;${}")]
    if not runs or len(parts) != 1 or not all(map(_SAYS.fullmatch, runs)):
        return text
    behind = _UNIT_BEHIND.match(bare, bare.rindex(parts[0]) + len(parts[0]))
    unit = unit_of(behind[1]) if behind is not None else ""
    part = parts[0].rstrip("}") if parts[0].count("}") > parts[0].count("{") else parts[0]
    return f"{part}\\text{{ {unit}}}" if unit and part[-1:].isdigit() else part


# ── Chinese numerals, and what is written with them ───────────────────────────────────────────────────────────────────

_DIGITS = "零〇一二三四五六七八九"
_SIZES = {"亿": 10**8, "万": 10**4, "千": 1_000, "百": 100, "十": 10}
_PLAINER = str.maketrans("两兩萬億" + _DIGITS, "22万亿00123456789")
_SEVERAL = re.compile(f"[1-9一二三四五六七八九两兩][{_DIGITS}]|[{_DIGITS}]\\d")
"""三四个 are three or four."""
_LARGE = "[十万亿萬億]|千(?![米克瓦卡帕焦牛赫伏])|百(?!分)"
_NUMBER = f"(?:[{_DIGITS}两兩\\d.]|{_LARGE})++"
_NUMERAL = re.compile(
    f"(?<![\\d.,万亿千百])\\d[\\d.]*(?:{_LARGE})(?:{_NUMBER})?"
    f"|(?:(?<![{_EAST}\\d.,])|(?<=[是为得有共于答는は은]))负?{_NUMBER}(?:点[{_DIGITS}]+)?(?=\\s*(?:{_SAYS.pattern})?\\W*$)"
)
"""2.5万 anywhere; 三十六 alone, or between words that may stand around a value."""


def _number(text: str) -> Decimal | None:
    """3十6 → 36, 1万2千 → 12000; None for other words, and for 2百5, which is 250."""
    for name, size in _SIZES.items():
        above, found, below = text.partition(name)
        if found:
            factor, rest = _number(above or "1"), _number(below or "0")
            if factor is None or rest is None or (size > 10 and re.fullmatch(r"[1-9]\d*", below)):
                return None
            return factor * size + rest if 0 < factor < (size if size >= 10**4 else 10) and rest < size else None
    return Decimal(text) if re.fullmatch(r"\d+(?:\.\d+)?", text) else None


def _digits(written: str) -> str:
    """负三十六 → -36; the text itself where it is no number."""
    plain, point, decimals = written.removeprefix("负").partition("点")
    if written.isascii() or len(written) > LONGEST_NUMBER or _SEVERAL.search(plain):
        return written
    number, sign = _number(plain.translate(_PLAINER)), "-" if written.startswith("负") else ""
    return written if number is None else f"{sign}{number.normalize():f}{'.' if point else ''}{decimals.translate(_PLAINER)}"


def _fraction(match: Match) -> str:
    """五分之三 → \\frac{3}{5}, 百分之二十 → 20\\%, 一又二分之一 → 1\\frac{1}{2}."""
    full, below, top = (_digits(written or "") for written in match.groups()[1:])
    value = f"{top}\\%" if below == "百" and not full else f"{full}\\frac{{{top}}}{{{below}}}"
    return f"-{value}" if match[1] else value


def _clock(match: Match) -> str:
    """下午3点半 → 3:30 pm; as it stands where the hour may be of the other half of the day."""
    half, hour, minutes = match[1], _digits(match[2]), "30" if match[4] else _digits(match[3] or "0").zfill(2)
    hours = range({"晚": 6, "傍": 4}.get(half[0], 0), 13 if half in ("下午", "午後", "오후") else 12)
    if not hour.isdecimal() or int(hour) not in hours:
        return match[0]
    return f"{hour}:{minutes} {'a' if half in ('上午', '早上', '凌晨', '午前', '오전') else 'p'}m"


_HOUR = f"(\\d{{1,2}}|[{_DIGITS}十]{{1,3}})"
_PER = {"时": "h", "時": "h", "시": "h", "小": "h", "分": "min", "분": "min", "秒": "s", "초": "s"}
_RELATIONS = replacements("eastern relations")
_EASTERN = table(
    ("折", f"^打?({_NUMBER})折$", lambda match: f"{_digits(match[1])}折"),
    ("", f"^(上午|早上|凌晨|午前|오전|下午|傍晚|晚上|午後|오후)\\s*{_HOUR}\\s*[时時点點시:]钟?(?:\\s*{_HOUR}\\s*[分분]?|(半))?$", _clock),
    ("余", r"^(?:商\s*[是为]?)?\s*(\d+)[\s,]*余数?\s*[是为]?\s*(\d+)$", r"\1 remainder \2"),
    ("速|每|毎|속", r"(?:([时時시分분秒초])[速속]|[每毎](小时|時間?|分钟?|秒)行?)\s*[为是]?\s*(\d[\d.]*)\s*(?:\\text\s*\{\s*)?"
     r"(k?m|千米|公里|米|キロ|メートル)\s*\}?(?![\w/])",
     lambda match: rf"{match[3]}\text{{ {unit_of(match[4])}/{_PER[(match[1] or match[2])[0]]}}}"),
    ("每", "(?<=[米里克吨元升])每", "/"),
    ("摄氏度", "摄氏度", r"^\\circ C"),
    ("根号", rf"(?<![{_DIGITS}\d.])(?:({_NUMBER})倍?)?(?<!次)根号下?\s*({_NUMBER}|[a-z](?![\w(]))(?!\s*[-+*/^(]|分[之の])",
     lambda match: rf"{_digits(match[1] or '')}\sqrt{{{_digits(match[2])}}}"),
    ("分之|分の|분의", rf"(?<![{_DIGITS}十百千万亿\d.])(负)?(?:({_NUMBER})又)?(百|{_NUMBER})\s*(?:分之|分の|분의)\s*"
     rf"({_NUMBER}|\\pi|\\sqrt\{{\w+\}})(?!\s*[-+])", _fraction),
    ("", rf"(?<=[A-Za-z)}}])\s*({_any_of(_RELATIONS)})\s*(?=[-+\d\\A-Za-z(])", lambda match: f" {_RELATIONS[match[1]]} "),
    ("比", f"^({_NUMBER})\\s*比\\s*({_NUMBER})$", lambda match: f"{_digits(match[1])}:{_digits(match[2])}"),
    ("", r"^(\d{1,2})[点點时時](\d{1,2})分$", r"\1:\2"),
    ("最|平均|中位", r"^(最大值|最小值|平均[数值]|中位数)\s*[是为]\s*([^是为]+)$",
     lambda match: f"{ {'大': 'maximum', '小': 'minimum', '均': 'mean', '位': 'median'}[match[1][1]]} = {match[2]}"),
    ("条件", "^([充分必要不且既又也非]+)条件$", r"\1"),
    ("周", "^周(?=[一二三四五六日天]$)", "星期"),
    ("正负", r"正负(?=[\d\\])", r"\\pm "),
    ("负", f"(?<![{_EAST}])负(?=[\\d\\\\])", "-"),
)  # fmt: skip


# ── number words, "no solution" and "or" in European languages ────────────────────────────────────────────────────────

_ONLY_WORDS = re.compile(r"[^\W\d_]+(?:[ '’-]+[^\W\d_]+)*[ .!]*")
_NUMBER_WORDS, _PART_WORDS, _ENGLISH_TOO = replacements("european numbers"), replacements("european parts"), listed("english too")
_SPOKEN = re.compile(
    f"(?:(?P<joins>und|(?:et|y|e)(?= ))|(?P<part>{_any_of(_PART_WORDS)})|(?P<number>{_any_of(_NUMBER_WORDS)}))[ -]?"
)
_DENIALS, _SOLUTIONS, _AROUND = listed("european denials"), listed("european solutions"), listed("european fillers")
_SUBJECT_IS = re.compile(rf"(.{{3,}}) (?:{_any_of(listed('copulas') - {'=', ':'})}) (.+?)[ .!]*")
_EUROPEAN = table(
    (" oder | ou | или ", r"(?<=[\w)}$])\s+(?:oder|ou|или)\s+(?=[$\d\\(+-]|[a-z]\s*[=<>])", " or "),
    (" und | et | и ", r"(?<=[\w)}$])\s+(?:und|et|и)\s+(?=[$\d\\(+-]|[a-z]\s*[=<>])", " and "),
    (" o | y | e ", r"^([a-z])(\s*=[^=]*?)\s+(?:o|y|e)\s+(?=\1\s*=)", r"\1\2, "),
    ("Grad|grad|degr|grau", r"(?<=\d)\s*(?:Grad|degrés?|grados?|gradi|graus?)(?![^\W\d_])", " degrees"),
    ("Prozent|cient|cent", r"(?<=\d) (?:Prozent|por ciento|pour cent|per cento|por cento)(?![^\W\d_])", r"\\%"),
    ("ä|ö|ü|Ä|é|è|í|ó|ô|ñ|á|ê", r"(?<=\d)\s+([^\W\d_]*[^\x00-\x7f\W\d_][^\W\d_]*)(?=[ .]*$)", r"\\text{ \1}"),
    ("Es |Il |Hay |Ci |Há ", r"^(?:Es gibt|Il y a|Hay|Ci sono|Há) (\S+)(?= [^\W\d_]{2})",
     lambda match: f"There are {_spoken(match[1]) or match[1]}"),
    (" de la ", r"^(?:a )?las? (\d{1,2})(?::(\d\d))? de la (?:tarde|noche)$",
     lambda match: match[0] if "noche" in match[0] and not 5 < int(match[1]) < 12 else f"{match[1]}:{match[2] or '00'} pm"),
)  # fmt: skip


def _european(text: str) -> str:
    """zwölf → 12, La réponse est trois quarts → \\frac{3}{4}, keine Lösung → \\emptyset, x = 2 ou x = 3 → x = 2 or x = 3."""
    if len(text) > LONGEST or _ONLY_WORDS.fullmatch(text) is None:
        return rewritten(text, _EUROPEAN) if " " in text and len(text) <= LONGEST else text
    said = [word for word in words_of(text.casefold().removeprefix("es ")) if word not in _AROUND]
    if len(said) == 2 and said[0] in _DENIALS and said[1] in _SOLUTIONS:
        return "\\emptyset"
    sentence = _SUBJECT_IS.fullmatch(text)
    if sentence is not None and is_subject(sentence[1]) and not doubted(words_of(sentence[1])):
        return _spoken(sentence[2]) or text
    bare = text.strip(" .!")
    return _spoken(bare) or _WHOLE.get(bare.casefold()) or rewritten(text, _EUROPEAN)


def _spoken(text: str) -> str | None:
    """zweiundzwanzig, vingt-deux, veintidós → 22; drei Viertel → \\frac{3}{4}; None for other words, and where English has them, too."""
    found: list[tuple[int, bool]] = []
    at, joined, part, foreign, text = 0, False, 0, False, text.casefold()
    while at < len(text):
        match = _SPOKEN.match(text, at)
        if match is None or part or (joined and not match["number"]):
            return None
        at, foreign = match.end(), foreign or match[0].strip(" -") not in _ENGLISH_TOO
        if match["number"]:
            found.append((int(_NUMBER_WORDS[match["number"]]), joined))
        part, joined = int(_PART_WORDS.get(match["part"], 0)), match["joins"] is not None
    value = _composed(found, " " not in text, "quatre" in text) if found and foreign and not joined else None
    if not part or value is None:
        return None if value is None else str(value)
    return f"\\frac{{{value}}}{{{part}}}" if 0 < value < 20 and len(found) == 1 else None


def _composed(found: list[tuple[int, bool]], one_word: bool, french: bool) -> int | None:
    """The number of its words in order, each with whether an "and" stands before it: 4, 20, 10 are 90, and 3, (and) 20 are 23."""
    thousands = value = before = 0
    for index, (size, joined) in enumerate(found):
        room = before if before >= 100 else 20 if before >= 20 else 10 if before == 10 and not joined and size > 6 else 0
        if size == 1_000 and not (thousands or joined):
            thousands, value = 1_000 * max(value, 1), 0
        elif size == 100 and value < 10 and not joined:
            value = 100 * max(value, 1)
        elif size == 20 and before == 4 and not joined and french:  # quatre-vingts
            value += 76
        elif joined and one_word and 0 < before < 10 and size >= 20 and size < 100:  # dreiundzwanzig
            value, size = value + size, 1
        elif not index or before == 1_000 or (size < room and not (joined and size > 9 and (before, size) != (60, 11))):
            value += size
        else:
            return None
        before = size
    return thousands + value
