"""Units of measure and counts in keyphrases, each spelt in one way: 12", 12in, 12 in. and 12-inch are 12 inch.

| unit | one form | spellings |
|---|---|---|
| inch | `12 inch` | 12", 12”, 12'', 12inch, 12-inch, 12 inches, 12in, 12-in, 12 in., 12 in (see below) |
| foot | `5 ft` | 5', 5’, 5ft, 5-ft, 5 ft., 5 foot, 5 feet; 5'6" is `5 ft 6 inch` |
| ounce | `8 oz`, `8 fl oz` | 8oz, 8 oz., 8-ounce, 8 ounces; 8 fl. oz., 8 fluid ounces |
| pound, quart, gallon | `2 lb`, `6 qt`, `5 gallon` | 2lbs, 2 lbs., 2-pound; 6qt, 6-quart; 5gal, 5 gal., 5-gallon |
| metric | `45mm` `30cm` `10m` `500ml` `2l` `99mg` `80g` `5kg` | 45 mm, 45-mm, 45 millimeters, 45 millimetres, … |
| electric, memory | `20v` `60w` `5000mah` `64gb` `2tb` | 20 volt, 20-volts; 60 watts; 5000 mah; 64 gb, 64 gigabytes |
| counts | `3 pack`, `90 count`, `20 piece` | 3pk, 3-pack, 3 packs, a final "pack of 3"; 90ct, 90-count; 20 pcs |

Each form is the one that buyers write most, with or without a space. Nothing is converted: 12 inch and 1 ft stay apart,
and so do 8 oz and 8 fl oz, a pack of 12 and 12 pieces, 18x18 inch and 18 inch x 18 inch.

What may mean something else stays as it is, and no short form is ever spelt out, since it may mean more than the long
one does: 10 meters become 10m, but "8 m" may be a size. So these stay:
- single letters after a space: size 8 m, 34 w jeans, 3 v neck;
- "in", unless glued or hyphenated to its number, with a period, at the end, between dimensions, after a bare fraction
  or before what is sold by its inches (`_SIZES`): 2 in 1, 5 in stock, 12 in a box, size 12 in black;
- marks that may close a quotation ("area 51" poster), decades (80's), bare 10'6;
- ct below 25, which may be carats (14 ct gold); foot massagers, pound cakes, a 2012 Volt; yards, amperes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Between a number and what must not be taken for its unit; in no text, since control characters become spaces.
_GUARD = "\x01"
# Of bounded length, so that no text takes quadratic time; of a longer one the last parts are the number.
_NUMBER = r"\b([0-9](?:[0-9.,/x-]{0,12}[0-9])?)"
# What may follow a unit. Beyond ASCII all may be letters, or marks that would combine with the unit's last letter.
_BEYOND = "\u0080-\U0010ffff"
_END = f"($|[^a-z0-9_{_BEYOND}]|×)"
_DOUBLE, _SINGLE = "(?:[\"”]|['’′]{2})", "['’′]"
_MARKS = ('"', "”", "'", "’", "′")
_SIZES = (
    "x|by|wide|width|long|length|tall|high|height|deep|depth|thick|diameter|dia|round|square|inseam|screen|display|"
    "tvs?|monitors?|laptops?|tablets?|skillets?|pans?|fans?|wheels?|rims?|tires?|blades?|pipes?|binders?|subwoofers?"
)
_FEET = (
    "massagers?|pumps?|pedals?|rests?|locker|pegs?|spas?|creams?|files?|warmers?|masks?|baths?|soaks?|scrubs?|stools?|"
    "switch|switches|care|peels?|powder|braces?|socks?|covers?|pads?|prints?|rollers?|sprays?"
)


class UnitRule(NamedTuple):
    """One replacement, in the syntax that Python's `re` (with ASCII) and RE2 share: no look-around."""

    pattern: str
    rewrite: str
    needles: tuple[str, ...] = ()  # the pattern matches no text without one of them: a quick test


def _guard(before: str, after: str, *needles: str) -> UnitRule:
    """What is no unit: `before` ends in a number or mark, `after` is what would be read as its unit."""
    return UnitRule(f"({before})({after})", rf"\1{_GUARD}\2", needles)


def _spelt(unit: str, *spellings: str) -> UnitRule:
    """A number, perhaps a space or hyphen, one of the spellings, perhaps a period."""
    needles = tuple(re.findall(r"^[a-z]+(?!\?)", "\n".join(spellings), re.MULTILINE))
    return UnitRule(rf"{_NUMBER}[ -]?(?:{'|'.join(spellings)})\.*{_END}", rf"\1{unit}\2", needles)


_GUARDS = (
    _guard(r'(?:^|[ (\[])"[^"]*', '"', '"'),
    _guard(r"(?:^|[ (\[])'[^']*", "'", "'"),
    _guard("“[^“”]*", "”", "”"),
    _guard("‘[^‘’]*", "’", "’"),
    _guard("[0-9]", rf"{_SINGLE} s\b", " s"),
    _guard("[0-9]", r"[ -]?in[ -](?:1|one|the|stock)\b", "in"),
    _guard(r"\b(?:size|sz|us|uk|eu) [0-9.]*[0-9]", r" in\b", " in"),
    _guard("[0-9]", rf"[ -]foot (?:{_FEET})\b", "foot"),
    _guard("[0-9]", r"[ -]pounds? (?:cakes?|puppy|puppies|sterling|notes?|coins?)\b", "pound"),
    _guard(r"\b(?:19|20)[0-9][0-9]", r" volts?\b", "volt"),  # a car
    _guard(r"\.[0-9]+", r"[ -]?cts?\b", "ct"),
    _guard("[0-9]", r"[ -]?(?:packs|pks?) of\b", " of"),
)

# In this order: feet and inches before inches.
_UNITS = (
    UnitRule(rf"([0-9]){_SINGLE} ?([0-9][0-9]?)({_DOUBLE})", r"\1 ft \2\3", _MARKS),
    UnitRule(rf"([0-9]){_DOUBLE}([a-z(])", r"\1 inch \2", _MARKS),
    UnitRule(rf"([0-9]){_DOUBLE}{_END}", r"\1 inch\2", _MARKS),
    _spelt(" inch", "inch", "inches"),
    UnitRule("([0-9])in ?[x×] ?([0-9])", r"\1 inch x \2", ("in",)),
    UnitRule(rf"{_NUMBER}(?:in|[ -]in\.)\.*($|[^a-z0-9_.{_BEYOND}-]|×)", r"\1 inch\2", ("in", " in.", "-in.")),
    UnitRule(rf"{_NUMBER}-in($|[,)]| [a-z])", r"\1 inch\2", ("-in",)),
    UnitRule(rf"{_NUMBER} in($|[,)]| (?:{_SIZES})(?:$|[ ,)]))", r"\1 inch\2", (" in",)),
    # No size of clothes is a fraction alone.
    UnitRule("(^|[a-z,(] ?)([0-9]/[0-9][0-9]?) in( [b-z])", r"\1\2 inch\3", (" in ",)),
    UnitRule("([0-9] inch) ?[x×] ?([0-9])", r"\1 x \2", (" inch",)),
    UnitRule(rf"([0-9]){_SINGLE}($|[ ,)/×-])", r"\1 ft\2", _MARKS),
    UnitRule(rf"([0-9]){_SINGLE}(x)", r"\1 ft \2", _MARKS),
    _spelt(" ft", "ft", "foot", "feet"),
    UnitRule("([0-9] ft) ?[x×] ?([0-9])", r"\1 x \2", (" ft",)),
    _spelt(" fl oz", r"fl\.? ?oz", r"fl\.? ?ounces?", "fluid[ -]ounces?"),
    _spelt(" oz", "oz", "ozs", "ounces?"),
    _spelt(" lb", "lbs?", "pounds?"),
    _spelt(" qt", "qts?", "quarts?"),
    _spelt(" gallon", "gals?", "gallons?"),
    _spelt("mm", "mm", "millimet(?:er|re)s?"),
    _spelt("cm", "cm", "centimet(?:er|re)s?"),
    _spelt("m", "met(?:er|re)s?"),
    _spelt("ml", "ml", "millilit(?:er|re)s?"),
    _spelt("l", "lit(?:er|re)s?", "ltrs?"),
    _spelt("mg", "mg", "milligrams?"),
    _spelt("g", "grams?"),
    _spelt("kg", "kgs?", "kilograms?"),
    _spelt("v", "volts?"),
    _spelt("w", "watts?"),
    _spelt("mah", "mah"),
    _spelt("gb", "gb", "gigabytes?"),
    _spelt("tb", "tb", "terabytes?"),
    _spelt(" pack", "packs?", "pks?"),
    UnitRule(r"(^|[a-z,(\[] ?)pack of ([0-9]+)($|[,)\]])", r"\1\2 pack\3", ("pack of",)),
    _spelt(" piece", "pcs", "pieces?"),
    _spelt(" count", "counts?"),
    UnitRule(rf"\b(2[5-9]|[3-9][0-9]|[0-9,]{{0,8}}[0-9][0-9][0-9])[ -]?cts?\.*{_END}", r"\1 count\2", ("ct",)),
)

# Applied one after the other, each to the whole text.
UNIT_RULES: tuple[UnitRule, ...] = (*_GUARDS, *_UNITS, UnitRule(_GUARD, "", (_GUARD,)))

_COMPILED = [(rule.needles, re.compile(rule.pattern, re.ASCII), rule.rewrite) for rule in UNIT_RULES]
_MAY_HOLD_UNIT = re.compile(r"[0-9][ -]?[\"'”’′cfgiklmopqtvw]|pack of [0-9]", re.ASCII)


def fold_units(text: str) -> str:
    """`text`, in lower case and NFKC with single spaces, with units in their one form. Idempotent; digits stay."""
    if _MAY_HOLD_UNIT.search(text) is None:
        return text
    for needles, pattern, rewrite in _COMPILED:
        for needle in needles:
            if needle in text:
                text = pattern.sub(rewrite, text)
                break
    return text
