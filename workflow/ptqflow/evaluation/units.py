r"""Units of answers: 864 \text{ in}^2, $5, 90^\circ, 50 %, 12 apples. What a unit is called does not matter, which it is does."""

import re

_ALIASES = {
    "dollar": "dollars usd buck bucks", "cent": "cents ¢", "euro": "euros eur", "pound sterling": "gbp",
    "degree": "degrees deg", "radian": "radians rad", "%": "percent",
    "mm": "millimeter millimeters millimetre millimetres", "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres", "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards", "mi": "mile miles",
    "g": "gram grams", "kg": "kilogram kilograms kgs", "lb": "pound pounds lbs", "oz": "ounce ounces",
    "s": "second seconds sec secs", "min": "minute minutes mins", "h": "hour hours hr hrs", "day": "days", "week": "weeks",
    "month": "months", "year": "years yr yrs", "l": "liter liters litre litres", "ml": "milliliter milliliters",
    "mi/h": "mph", "km/h": "kph kmh kmph", "unit": "units",
}  # fmt: skip
_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in [name, *aliases.split()]}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words after a number that change what is said rather than count something.
_NOT_UNITS = re.compile(
    r"\b(?:or|and|not|more|less|least|most|than|about|approximately|nearly|almost|between|remainder|mod|modulo|base|over|times|plus|"
    r"minus|r|i|e|pi|no|none|true|false|dozen|half|score|factorial|squared|cubed)\b"
)
# Behind a number and its unit: whether it is said of each or of all, and what it is a share of.
_REMARK = re.compile(r"\s+(?:each|apiece|altogether|in (?:total|all)|(?<=% )of(?: [a-z]{2,})+)$")
_MODULUS = re.compile(r"\s*(?:\\pmod|\(\s*mod(?![a-z]))\s*\{?\s*(\d+)\s*\}?\s*\)?$")


def parted(text: str) -> tuple[str, str]:
    """The expression of an answer in the one spelling and its canonical unit: ("864", "in^2"), ("50", "%"), ("x+1", "").
    A modulus counts as one: ("7", "mod 11").

    Text that is no unit stays in the expression, which then cannot be read.
    """
    found = ""
    text = re.sub(r"(\d)\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}|(\d)(?:st|nd|rd|th)\b", lambda m: m[1] or m[2], text)
    text = re.sub(r"\\text\s*\{([^{}]*)\}", lambda m: f" {m[1]} ", text).strip()
    text = _REMARK.sub("", re.sub(r"\s+", " ", text))
    if modulus := _MODULUS.search(text):
        text, found = text[: modulus.start()], f"mod {modulus[1]}"
    for mark, name in (
        (r"\\\$", "dollar"),
        ("¢", "cent"),
        ("€", "euro"),
        ("£", "pound sterling"),
        (r"\\%\s*$", "%"),
        (r"^(?!.*\\(?:sin|cos|tan|cot|sec|csc))(.*)\^\\circ\s*$", "degree"),
    ):
        text, count = re.subn(mark, lambda m: m[1] if m.lastindex else "", text)
        found = name if count else found
    text = re.sub(r"(?<=\d)\s*-\s*(?=[a-zA-Z]{3,})", " ", text.strip())
    match = re.fullmatch(r"(.*?[\d)}]|.*\\[a-zA-Z]+)\s*((?:[a-zA-Z/]|(?:\^\s*\{?[23]\}?)|[\s.-](?=[a-zA-Z/ ^]))+)\.?", text)
    words = match[2] if match else ""
    if found and re.match(r"\s*(?:per\b|an?\b|/)", words):  # $18 per hour
        words, found = f"{found} {words}", ""
    if match and words.strip() and (known := _canonical(words, match[1], spaced=text[match.end(1)] == " ")):
        scale, unit = known
        text = f"({match[1].strip()})\\cdot 10^{{{scale}}}" if scale else match[1].strip()
        if unit and found and not (found == unit or (found, unit) == ("degree", "C")):
            return text + " \\text{two units}", ""
        found = unit or found
    return text.strip(), found


def _canonical(words: str, number: str, *, spaced: bool) -> tuple[int, str] | None:
    """(power of ten, unit) of the words after a number; None where they are not a unit."""
    words = re.sub(r"\s+", " ", words.replace(".", " ").replace("-", " ")).strip().casefold()
    words = re.sub(r"\s*\^\s*\{?(\d)\}?", r"^\1", words)
    scale = 0
    head, _, rest = words.partition(" ")
    if head in _SCALES:
        scale, words = _SCALES[head], rest.removeprefix("of ").strip()
    if _NOT_UNITS.search(words) or "\\" in words:
        return None
    if not words:
        return scale, ""
    power = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}.get(words.split()[0], "")
    if power:
        words = words.partition(" ")[2]
    if match := re.fullmatch(r"(.+?)(\^[23])", words):
        words, power = match[1].strip(), match[2]
    parts = [part.strip() for part in re.split(r"\s+per\s+|/|\s+an?\s+", words)]
    names = [_NAMES.get(part.removeprefix("of ").strip()) for part in parts]
    if not all(names):
        # What is counted (apples): words only, set apart, not letters that could be variables.
        if not spaced or not re.fullmatch(r"[a-z]{3,}(?: [a-z]+)*", words):
            return None
        return scale, words.removesuffix("s") + power
    if len(words) == 1 and not spaced:
        return None
    return scale, "/".join(name for name in names if name) + power
