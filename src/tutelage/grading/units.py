"""Units of measurement: one spelling for each."""

from __future__ import annotations

import re

_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "inch": "in", "inche": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi",
    "gram": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "dollar": "$", "usd": "$", "buck": "$", "cent": "¢",
    "sq": "square", "mph": "mi/h", "kph": "km/h", "kmh": "km/h", "people": "person", "squared": "^2", "cubed": "^3",
    "per": "/",
}  # fmt: skip


def unit_of(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); square cm and cm^2; what only counts ("units", "th grade") is no unit."""
    found = []
    for word in re.findall(r"[A-Za-z]+|\^?\d+|[/$]", words.lower()):
        singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
        found.append(_UNIT_NAMES.get(singular, _UNIT_NAMES.get(word, singular)))
    for power, name in (("^2", "square"), ("^3", "cubic")):
        if name in found:
            found = [word for word in found if word != name] + [power]
    found = [word for word in found if word not in ("unit", "of", "the", "a", "th", "st", "nd", "rd", "exactly", "about")]
    return "" if not [word for word in found if not word.startswith("^")] else "".join(found)
