"""What has a symbol, said in words: no solution, two thirds, all real numbers except 1, 3 to 4, k is an integer."""

from __future__ import annotations

import re
from collections.abc import Callable

from tutelage.grading.taking.format import TEXT_COMMANDS
from tutelage.grading.wording.remarks import items_of
from tutelage.grading.wording.units import is_unit
from tutelage.grading.wording.vocabulary import DOUBTS, number_of, replacements, words_of
from tutelage.grading.wording.words import WORD

LONGEST = 200
"""Characters of a phrase, at most."""
_PLAIN = {
    "empty set": r"\emptyset", "none": r"\emptyset", r"\{\}": r"\emptyset", "infinity": r"\infty", "negative infinity": r"-\infty",
    "origin": "(0, 0)", "dne": "does not exist", "undefined": "does not exist",
}  # fmt: skip
_SETS = {
    "integers": r"\mathbb{Z}", "rational numbers": r"\mathbb{Q}", "real numbers": r"\mathbb{R}", "reals": r"\mathbb{R}",
    "nonnegative": r"[0, \infty)", "positive": r"(0, \infty)", "negative": r"(-\infty, 0)",
}  # fmt: skip
_NUMBERS = r"(?:real\s+numbers?|reals?|numbers?|values)"
_OF_ALL = r"(?:the )?(?:set of )?(?:all )?(?:the )?"
_EXTENT = {"local": "local ", "relative": "local ", "global": "global ", "absolute": "global "}
_QUADRANTS = {"first": "I", "second": "II", "third": "III", "fourth": "IV", "1": "I", "2": "II", "3": "III", "4": "IV"}
_CENTER, _RADIUS = r"(?:the )?cent(?:er|re)(?: is| at|:| =)* (\(.+\))", r"(?:the )?radius(?: is| of|:| =)* ([^ ,]+)"
_CONSTANT = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])(?:_\d|_\{\d\})?")
_CONSTANTS = r"(?:[a-z](?:_\d|_\{\d\})?(?: ?, and | and | ?, | |$)){1,4}"
_RELATION = r"(?:[<>]|\\[lg]e |\\ne )"


def _compared(match: re.Match[str]) -> str:
    word = match["word"].casefold()
    above, value = word.startswith(("greater", "more", "larger", "at least")), match["value"]
    strict = word.endswith("than") and not match["equal"]
    if not match["of"]:  # at most 6
        return f"{'(' if strict else '['}{value}, \\infty)" if above else f"(-\\infty, {value}{')' if strict else ']'}"
    sign = {(True, True): ">", (True, False): r"\ge", (False, True): "<", (False, False): r"\le"}[above, strict]
    return f"{match['name'] or 'x'} {sign} {value}"


_DIRECTIONS = replacements("directions")


def _change(match: re.Match[str]) -> str:
    """The price fell by 20% → 20% decrease."""
    percent, word = sorted(part for part in match.groups() if part)  # a digit stands before a letter
    change = _DIRECTIONS.get(word.casefold())
    return match[0] if change is None or not DOUBTS.isdisjoint(words_of(match[0])) else rf"{percent}\text{{ {change}}}"


def _circle(match: re.Match[str]) -> str:
    """The circle with center (1, 0) and radius 4 → (x - (1))^2 + (y - (0))^2 = (4)^2."""
    center, radius = match[2] or match[5], match[3] or match[4]
    if radius.startswith("-") or "|" in radius:
        return match[0]
    at = items_of(center[1:-1])
    return f"(x - ({at[0]}))^2 + (y - ({at[1]}))^2 = ({radius})^2" if match[1] and len(at) == 2 else f"{center}, {radius}"


def _clock(match: re.Match[str]) -> str:
    """half past two → 2:30, quarter to eight in the morning → 7:45 am."""
    hour, minutes = _integer((match[3] or match[4]).casefold()), {"half": 30, "quarter": 15, None: 0}.get(match[1], 60)
    minutes = minutes if minutes < 60 else _integer(match[1].casefold()) or 60
    if hour is None or hour > 12 or minutes > 59:
        return match[0]
    at = hour * 60 + (-minutes if match[2] == "to" else minutes)
    return f"{at // 60 or 12}:{at % 60:02}" + {None: "", "morning": " am"}.get(match[5], " pm")


def _one_in(match: re.Match[str]) -> str:
    parts = _integer(match[1].casefold()), _integer(match[2].casefold())
    return match[0] if None in parts else f"{parts[0]}/{parts[1]}"


def _with_parameter(match: re.Match[str]) -> str:
    """kπ, where k is an integer → kπ, k ∈ ℤ; k ≥ 1 for a positive one; that c is a constant says nothing more."""
    name, kind = sorted(match.groups()[1:], key=len)
    positive = re.match(r"positive|non-?negative", kind := kind.casefold())
    domain = rf" \ge {int(positive[0] == 'positive')}" if positive else r" \in \mathbb{Z}"
    domain = domain if "integer" in kind else "" if "constant" in kind else r" \in \mathbb{R}"
    return match[1].rstrip(" ,") + (f", {name}{domain}" if domain else "")


_PHRASES: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"(?:there (?:are|is|exists?) )?no such [a-z]+(?: exists?)?", r"\\emptyset"),
        (r"(?:there (?:is|are|exists?) |the (?:system|equation) has )?no "
         r"(?:(?:real|integer|such|positive|valid|possible) )*(?:solutions?|roots?|values?)(?: exists?)?"
         r"(?:: ?\\(?:emptyset|oslash|varnothing))?",
         r"\\emptyset"),
        (rf"{_OF_ALL}(?:real numbers|reals|real(?= [a-z] ))(?: [a-z])?"
         r"(?: except(?: for)?| other than| excluding| but| not equal to)(?: [a-z] =)? (.+)",
         lambda match: rf"\mathbb{{R}} \setminus \{{{re.sub(' and | or ', ', ', match[1])}\}}"),
        (rf"(?:all )?(?:{_NUMBERS} )?(?:[a-z] )?(?:(?:such that|with|where|satisfying|for which) )?([a-z] ?{_RELATION}.+)", r"\1"),
        (rf"(?P<of>(?:all )?{_NUMBERS}(?: [a-z])? |(?P<name>[a-z])(?: is)? )?"
         r"(?P<word>(?:greater|more|larger|less|smaller) than|at least|at most) (?P<equal>or equal to )?(?P<value>\S+)", _compared),
        (r"(?:all )?(?:real numbers? )?(non-?negative|(?:positive|negative)(?= real)) (?:real numbers?|reals|numbers?)",
         lambda match: _SETS[match[1].casefold().replace("-", "")]),
        (rf"{_OF_ALL}(integers|rational numbers|real numbers|reals)|all (real) [a-z]|all real numbers [a-z]",
         lambda match: _SETS[(match[1] or "reals").casefold()]),
        (r"(\d+|[a-z-]+) (?:out of|in|over) (\d+|[a-z-]+)", _one_in),
        (r"(-?\d[\d.,/]*) ?[(\[] ?([a-z]+) ?[)\]]",
         lambda match: rf"{match[1]}\text{{ {match[2]}}}" if is_unit([match[2]], False) else match[0]),
        (r"(?:(?:it|this|the [a-z]+) )?(?:cannot|can't|can not|could not) be determined(?: (?:from|with|by) [a-z ]+)?|undetermined"
         r"|(?:there is )?(?:not enough|insufficient) (?:information|data)(?: (?:is )?(?:to|given|for|available|provided)\b[a-z ]*)?",
         "cannot be determined"),
        (r"(?:we )?(do not |don't |fail to |cannot )?reject (?:the )?(?:null hypothesis|null|H_?\{?0\}?)(?: H_?\{?0\}?)?",
         lambda match: f"{'do not ' if match[1] else ''}reject the null hypothesis"),
        (r"(?:(?:the |this )?(?:power )?(?:series|integral|sum) )?"
         r"converges (?:absolutely )?(?:for|when|if|on|in|where|iff) (?:all )?(.+)", r"\1"),
        (r"(?:(?:I|we) (?:choose|chose|pick|select) (?:option |choice )?)\(?([A-J])\)?"
         r"|(?:option |choice )?\(?([A-J])\)? is (?:the )?(?:correct|right)(?: answer| option| choice| one)?",
         lambda match: match[1] or match[2]),
        (r"(?:from|between) (\S+) (?:to|and) (\S+?),? inclusive|(?:the )?closed interval (?:from|between) (\S+) (?:to|and) (\S+)",
         lambda match: f"[{match[1] or match[3]}, {match[2] or match[4]}]"),
        (r"(?:the )?open interval (?:from|between) (\S+) (?:to|and) (\S+)", r"(\1, \2)"),
        (r"(?:at |in )?(?:the )?(?:origin |vertex |cent(?:er|re) )?(?:points? )?(?:at )?(\(.+\))", r"\1"),
        (r"(?:the )?(?:ratio )?(\d+(?:\.\d+)?(?: to \d+(?:\.\d+)?)+)", lambda match: match[1].replace(" to ", ":")),
        (r"(\d+(?::\d+)+) ratio", r"\1"),
        (r"(?:(?:the|it|its|this) (?:[a-z]+ ){0,4})?"
         r"(?:has |have |was |is |were |been |went )*([a-z]+) by (\d[\d.]* ?\\?%)", _change),
        (r"(?:an? )?(increase|decrease|reduction|drop|rise|fall) of (\d[\d.]* ?\\?%)"
         r"|(?:an? )(\d[\d.]* ?\\?%) (increase|decrease)", _change),
        (r"(?:the )?(first|second|third|fourth) quadrant|quadrant ([1-4])",
         lambda match: f"Quadrant {_QUADRANTS[(match[1] or match[2]).casefold()]}"),
        (r"(?:.* is )?neither even nor odd|neither", "neither even nor odd"),
        (r"(?:it|this|the [a-z]+(?: [a-z]+)?) (?:is undefined|does not exist)", "does not exist"),
        (r"quotient (?:is |= ?)?(\S+?),? (?:and |with )?(?:a )?remainder (?:is |of |= ?)?(\S+)|(\S+) with (?:a )?remainder (?:of )?(\S+)",
         lambda match: f"{match[1] or match[3]} remainder {match[2] or match[4]}"),
        (r"(?:all )?(?:integers |numbers )?(?:that are )?(?:multiples of|divisible by) (\d+)|(?:all |the )?(odd|even) (?:integers|numbers)",
         lambda match: rf"n \equiv {int(match[2] == 'odd')} \pmod{{{match[1] or 2}}}"),
        (r"(?:all )?integers of the form (.*)", r"\1"),
        (r"(?:statements?|options?|choices?|propositions?) ((?:\(?[A-J\d]\)?(?:,? and |, ?)?)+)", r"\1"),
        (r"([a-z]) (?:is|lies) strictly between (\S+) and (\S+)", r"\2 < \1 < \3"),
        (r"(?:all )?(?:real )?numbers (?:[a-z] )?in (?:the interval )?([(\[\\].+)", r"\1"),
        (r"(?:the )?\d+\s*\\?% confidence interval (?:is|:|=) ?(.+)", r"\1"),
        (r"(-?\d[\d.,/]*) \(in ([a-z]+(?: [a-z]+){0,3})\)", r"\1\\text{ \2}"),
        (r"(.*[\d)}]) exactly", r"\1"),
        (r"(?:the )?(?:point ([A-Z])|segment ([A-Z]{2}))", lambda match: match[1] or match[2]),
        (r"(?:the )?(?:eigenvalues?|roots|zeros|solutions?)(?: are| is|:)? (-?\d.*)", r"\1"),
        (r"(?:the )?(\d) ?(?:\\times|x|by|-by-) ?(?:\1) identity(?: matrix)?", r"I_\1"),
        (rf"((?:the )?circle with )?(?:{_CENTER}(?:,|;| and| with)+ {_RADIUS}|{_RADIUS}(?:,|;| and| with)+ {_CENTER})", _circle),
        (r"(.*\d) \(?(?:a )?(?:double|repeated) root\)?", r"\1"),
        (r"(.*[\w})])[ ,]+(?:where|with|for) ([a-z] ?\\in ?\\mathbb ?\{?[A-Z]\}?)", r"\1, \2"),
        (r"(?:a )?(?:(half|quarter|five|ten|twenty|twenty-five|\d+(?= minutes))(?: minutes)? (past|to) ([a-z]+|\d+)"
         r"|([a-z]+|\d+) o'clock)(?: in the (morning|afternoon|evening))?", _clock),
        (r"(?:(local|global|absolute|relative) )?(min|max)(?:imum)?(?: value)?"
         r"(?: |(?: is|:| =)+ ?|(?: is)? at (?=\())(-?[\d\\][^,]*|\(.*\))",
         lambda match: f"{_EXTENT.get(match[1], '')}{match[2].casefold()}imum = {match[3]}"),
        (r"(.*=.*[\w})])[ ,]+(?:for (?:all|any|every|each)|\\forall) "
         r"(?:real |positive |natural |integers? |numbers? )*[a-z](?: ?\\in ?\\mathbb ?\{?[A-Z]\}?| ?(?:\\ge ?[01]|> ?0))?"
         r"((?:, \w+ \\in \\mathbb\{R\})*)", r"\1\2"),
        (r"(.*[\w})])[ ,]+for (?:some|any|all|every) ([a-z] ?(?:[<>]|\\[lg]e|\\ne) ?\S+)", r"\1, \2"),
        (r"(?:the (?:limit|series|integral|sequence|function) )?(?:diverges|tends|goes|converges) to (.+)", r"\1"),
        (r"(?:(?:the )?(?:function|graph|it|f|f\(x\)) )+is (?:strictly )?"
         r"(?:increasing|decreasing|concave (?:up|down)(?:ward)?|defined|continuous)"
         r" (?:on|for|when|in|over) (?:the intervals? )?(.+)", r"\1"),
        (r"(.*[\w})])[ ,]* \(?where ([a-z]) is an?y? ((?:positive |non-?negative )?integer|real number|real)\)?", _with_parameter),
        (rf"(.*[\w}})])[ ,]* \(?(?:(?:where|with) ({_CONSTANTS})(?:are|is an?|being) (?:any |arbitrary |real )*constants?"
         rf"|(?:for|where|with) (?:any |some |arbitrary |real |an? )*constants? ({_CONSTANTS}))\)?",
         lambda match: match[1] + "".join(rf", {name} \in \mathbb{{R}}" for name in _CONSTANT.findall(match[2] or match[3]))),
        (r"(.*[\w})])[ ,]+for (?:any |every |all |each |some |an? )?((?:positive |non-?negative )?integers?"
         r"|constants?|real numbers?|real|reals)(?: constants?)? ([a-z])",
         _with_parameter),
    )
]  # fmt: skip


def phrases(text: str) -> str:
    """What has a symbol, said in words: no solution → \\emptyset, two thirds → 2/3, all reals except 1 → \\mathbb{R} \\setminus \\{1\\}."""
    if len(text) > LONGEST or not WORD.search(text) or "\\begin" in text:
        return text
    plain = re.sub(r"\s+", " ", re.sub(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}\\]*)\}}", r" \1 ", text)).strip()
    if (known := _PLAIN.get(plain.casefold().removeprefix("the "))) is not None:
        return known
    for pattern, replacement in _PHRASES:
        if (match := pattern.fullmatch(plain)) is not None:
            written = replacement(match) if callable(replacement) else match.expand(replacement)
            return phrases(written) if len(written) < len(plain) else written
    spoken = len(text) < 80 and re.match(r"[A-Za-z]|\d+ (?:and an? |[a-z]+(?:th|rd)s?\b|quarters|halves)", text)
    return _spoken_number(text) if spoken else text


_WORDED_CASE = re.compile(
    r"(?P<value>[^:=<>]+?),? (?:if|for|when) (?P<condition>.+)|(?:if |for |when )?(?P<first>[^:]+[=<>\\][^:]*): ?(?P<behind>.+)"
)


def cases(text: str) -> str:
    """x if x > 0, and -x otherwise → \\begin{cases} x & x > 0 \\\\ -x & \\text{otherwise} \\end{cases}"""
    if len(text) > LONGEST or not re.search(r"\b(?:if|for|when)\b|: ", text) or "\\begin" in text:
        return text
    plain = re.sub(r"\\(?:text|mathrm)\s*\{\s*,?\s*(if|for|when|otherwise|and)\s*\}", r" \1 ", text)
    name = "".join(re.findall(r"^[A-Za-z]\([a-z]\)\s*=\s*", plain))
    rows = []
    for part in map(str.strip, items_of(plain.removeprefix(name))):
        case = _WORDED_CASE.fullmatch(part)
        if case is None and not part.endswith(" otherwise"):
            return text
        value, condition = (part.removesuffix("otherwise").rstrip(" ,"), r"\text{otherwise}") if case is None else (
            (case["value"] or case["behind"]), (case["condition"] or case["first"]))
        rows.append(f"{value} & {condition}")
    return name + r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}" if len(rows) > 1 else text


# ── numbers in words ──────────────────────────────────────────────────────────────────────────────────────────────────

_PARTS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
_PART = re.compile(
    r"(?:(?P<full>[a-z\d -]+?) and )?(?P<top>[a-z -]+?|\d+)[ -](?P<part>hal(?:f|ves)|quarters?|fourths?|[a-z]+?(?:th|rd)s?)(?P<rest> .+)?"
)


def _spoken_number(text: str) -> str:
    """two thirds → 2/3, two and a half → 5/2, minus eight → -8, twenty-four ways → 24 ways; other words as they are."""
    words = re.sub(r"^(?:exactly|precisely) ", "", re.sub(r"\s+", " ", text.strip().casefold()))
    sign = "-" if (signed := re.match(r"(?:minus|negative) (?!.*(?:minus|negative))", words)) else ""
    words = words[signed.end() :] if signed else words
    if sign and re.fullmatch(r"[\d.,/]+", words):
        return sign + words
    words = re.sub(r"^half (?=(?:of )?(?:an?|the) )", "a half ", re.sub(r"^half$", "one half", words))
    if words.startswith("a half a dozen"):
        return sign + "6"
    if (part := _PART.fullmatch(words)) is not None:
        named = part["part"].replace("halves", "half").removesuffix("s").replace("fourth", "quarter")
        top, full = (1 if name in ("a", "an") else _integer(name) for name in (part["top"], part["full"] or "zero"))
        if named in _PARTS and top and full is not None and (top > 1) is (part["part"] not in ("half", named, "fourth")):
            below = _PARTS.index(named) + 2
            rest = re.sub(f"^ (?:of )?(?:an? {'' if full else '|the [a-z]+$'})", " ", part["rest"] or "").rstrip()
            if not re.search(r"\b(?:of|and|or|times)\b", rest):
                return f"{sign}{full * below + top}/{below}{rest}"
    words = re.sub(r"^a (?=hundred|thousand|million|dozen)", "one ", words)
    known = words.split(" ")
    for count in range(len(known), max(0, len(known) - 3), -1):
        nouns = known[count:]
        value = number_of(" ".join(known[:count]))
        if value is not None and nouns == ["percent"]:
            return f"{sign}{value}/100"
        if value is not None and (not nouns or (len(nouns[-1]) > 3 and nouns[-1].endswith("s")) or nouns[0] == "dozen"):
            return f"{sign}{value}{''.join(f' {word}' for word in nouns)}"
    return text


def _integer(name: str) -> int | None:
    return int(name) if name.isdigit() else number_of(name)
