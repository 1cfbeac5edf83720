"""The words of the marketplace: how sellers write an attribute and what buyers call it.

A `Vocabulary` is one facet's values. Sellers write `navy`, buyers ask for `dark blue`, `blue` or `not black`: so a
buyer's phrase is a `Term`, the set of values that satisfy it. Synonyms, implications (`waterproof` is met by gore-tex)
and negations are all terms, which is what keeps the relevance logic one bitwise AND.

Table syntax, one line each:
    seller's forms > buyer's phrases      a value; its key is the first seller's form
    buyer's phrases = values              met by any of these values (a group or an implication)
    buyer's phrases != values             met by any value but these (a negation)
"""

from __future__ import annotations

import dataclasses


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclasses.dataclass(frozen=True)
class Term:
    """A buyer's phrase and the values (bit i is value i of the vocabulary) that meet it."""

    phrase: str
    allowed: int
    negation: bool = False


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One facet's values: key → seller's forms, and the buyers' terms over them."""

    forms: dict[str, tuple[str, ...]]
    terms: tuple[Term, ...]

    def mask(self, keys: tuple[str, ...]) -> int:
        """Bits of these values; raises KeyError naming an unknown one."""
        order = {key: i for i, key in enumerate(self.forms)}
        return sum(1 << order[key] for key in keys)

    def terms_for(self, keys: tuple[str, ...]) -> tuple[Term, ...]:
        """The terms that tell apart the values a product type comes in: met by some of them, not by all."""
        values = self.mask(keys)
        return tuple(term for term in self.terms if 0 < term.allowed & values < values)


def parse(table: str) -> Vocabulary:
    """A vocabulary from its table (syntax above); at most 64 values, because a set of them is a 64-bit mask."""
    lines = [line.strip() for line in table.strip().splitlines() if line.strip()]
    forms = {names[0]: names for names in (_split(line.split(">")[0]) for line in lines if ">" in line)}
    if len(forms) > 64:
        raise ValueError(f"vocabulary table: {len(forms)} values, at most 64 fit a mask: split the table")
    vocabulary = Vocabulary(forms, ())
    everything = vocabulary.mask(tuple(forms))
    terms = []
    for line in lines:
        if ">" in line:
            names, phrases = line.split(">")
            allowed, negation = vocabulary.mask(_split(names)[:1]), False
        elif "!=" in line:
            phrases, keys = line.split("!=")
            allowed, negation = everything & ~vocabulary.mask(_split(keys)), True
        else:
            phrases, keys = line.split("=")
            allowed, negation = vocabulary.mask(_split(keys)), False
        terms += [Term(phrase, allowed, negation) for phrase in _split(phrases)]
    return Vocabulary(forms, tuple(terms))


COLOUR = parse("""
    black, blk > black
    white, wht > white
    navy > dark blue, navy
    cobalt > royal blue
    sky > light blue
    burgundy > dark red
    scarlet > bright red
    charcoal > dark grey, dark gray
    ash > light grey
    olive > dark green
    mint > light green
    blush > light pink
    fuchsia > hot pink
    camel > tan, light brown
    espresso > dark brown
    ivory > cream, off white
    mustard > yellow
    lavender > light purple
    blue = navy, cobalt, sky
    red = burgundy, scarlet
    grey, gray = charcoal, ash
    green = olive, mint
    pink = blush, fuchsia
    brown = camel, espresso
    dark = black, navy, charcoal, burgundy, espresso
    pastel = mint, blush, lavender, sky
    bright = scarlet, fuchsia, mustard, cobalt
    neutral = ivory, camel, ash, white
    not black, no black != black
    not white != white
""")

MATERIAL = parse("""
    full grain, cowhide > real leather
    leatherette, pu > faux leather, vegan leather
    suede > suede
    canvas > canvas
    mesh > mesh
    gore-tex, gtx > gore tex
    rubberized > rubber
    merino > wool
    fleece > fleece
    goose down > feather
    cotton > cotton
    linen > linen
    bamboo > bamboo
    microfiber > polyester
    velvet > velvet
    jute > straw
    oak > oak
    walnut > walnut
    rattan > wicker
    stainless, ss > stainless steel
    cast iron > cast iron
    aluminum > aluminum
    titanium > titanium
    ceramic > ceramic
    borosilicate > glass
    tritan > plastic
    silicone > rubbery
    nylon > nylon
    polycarbonate > hard shell
    memory foam > foam
    leather = full grain, suede
    vegan, animal free = leatherette, canvas, mesh, cotton, microfiber, nylon
    waterproof, for rain = gore-tex, rubberized
    breathable, for summer = mesh, linen, cotton, bamboo
    warm, for winter = merino, fleece, goose down
    natural = cotton, linen, bamboo, merino, jute
    wooden, wood, solid wood = oak, walnut
    metal = stainless, cast iron, aluminum, titanium
    lightweight = mesh, aluminum, titanium, nylon, tritan, polycarbonate
    for induction = cast iron, stainless
    eco friendly = bamboo, jute, borosilicate, stainless, cotton
    washable = cotton, canvas, microfiber, mesh
    without leather, no leather != full grain, suede
    without plastic, plastic free != tritan, polycarbonate
    not metal != stainless, cast iron, aluminum, titanium
    without wool != merino
    without down, no feathers != goose down
    not glass != borosilicate
""")

AUDIENCE = parse("""
    mens, men > mens only
    womens, wmns > womens only
    unisex > unisex
    boys > boys only
    girls > girls only
    for men, mens, for him, for husband = mens, unisex
    for women, womens, ladies, for her, for wife = womens, unisex
    for boys, for son = boys, unisex
    for girls, for daughter = girls, unisex
    not womens != womens
""")

CLOTHES_SIZE = parse("""
    xs > extra small
    s, small, sm > small
    m, medium, med > medium
    l, large, lg > large
    xl > extra large, xl
    2xl, xxl > double xl
    3xl > triple xl
    plus size, big and tall = 2xl, 3xl
    petite = xs, s
""")
KIDS_SIZE = parse("""
    2t > for 2 year old
    3t > for 3 year old
    4t > for 4 year old
    6y > for 6 year old
    8y > for 8 year old
    10y > for 10 year old
    toddler, for toddlers, for preschool = 2t, 3t, 4t
    big kids, for school = 6y, 8y, 10y
""")
SHOE_SIZE = parse("""
    us 7, sz 7 > size 7, eu 40
    us 8, sz 8 > size 8, eu 41
    us 9, sz 9 > size 9, eu 42
    us 10, sz 10 > size 10, eu 43
    us 11, sz 11 > size 11, eu 44
    us 12, sz 12 > size 12, eu 45
    for big feet = us 11, us 12
    for small feet = us 7, us 8
""")
BED_SIZE = parse("""
    twin > single bed
    twin xl > for dorm
    full > double bed
    queen, qn > queen
    king, kg > king
    for couples, for master bedroom = queen, king
    for kids room = twin, twin xl
""")
VOLUME = parse("""
    12oz > 12 oz
    18oz > 18 oz
    24oz > 24 oz
    32oz > 32 oz, 1 liter
    40oz > 40 oz
    64oz > 64 oz, half gallon
    small, for kids = 12oz, 18oz
    large, big = 40oz, 64oz
""")
SCREEN_SIZE = parse("""
    24in > 24 inch
    27in > 27 inch
    32in > 32 inch
    34in > 34 inch
    big, large = 32in, 34in
    small = 24in
""")
LAPTOP_SIZE = parse("""
    13.3in > 13 inch
    14in > 14 inch
    15.6in > 15 inch
    17.3in > 17 inch
    small, for travel = 13.3in, 14in
    large, big = 15.6in, 17.3in
""")
LUGGAGE_SIZE = parse("""
    20in > 20 inch, carry on, cabin size
    24in > 24 inch
    28in > 28 inch
    checked, large = 24in, 28in
""")
PACK_SIZE = parse("""
    15l > 15 liter
    25l > 25 liter
    40l > 40 liter
    60l > 60 liter
    for school, small = 15l, 25l
    for trekking, large = 40l, 60l
""")
PET_SIZE = parse("""
    xs > for chihuahua
    s, small, sm > small
    m, medium, med > medium
    l, large, lg > large
    xl > for great dane
    for small dogs, for puppy = xs, s
    for big dogs, for large breeds = l, xl
""")
PERSONS = parse("""
    2p > 2 person
    4p > 4 person
    6p > 6 person
    for family = 4p, 6p
    for couple, solo = 2p
""")
CUPS = parse("""
    1 cup > single serve
    5 cup > 5 cup
    10 cup > 10 cup
    12 cup > 12 cup
    for office, large = 10 cup, 12 cup
    small, for one person = 1 cup, 5 cup
""")
STORAGE = parse("""
    64gb > 64 gb
    128gb > 128 gb
    256gb > 256 gb
    512gb > 512 gb
    large storage, for video = 256gb, 512gb
""")
PAN_SIZE = parse("""
    8in > 8 inch
    10in > 10 inch
    12in > 12 inch
    for eggs, small = 8in
    large, for family = 12in
""")
POT_SIZE = parse("""
    3qt > 3 quart, 3 liter
    6qt > 6 quart, 6 liter
    8qt > 8 quart, 8 liter
    large, for family = 6qt, 8qt
    small = 3qt
""")
RUG_SIZE = parse("""
    2x8 > runner, for hallway
    3x5 > 3x5
    5x7 > 5x7
    8x10 > 8x10
    large, for living room = 5x7, 8x10
    small, for bathroom = 3x5
""")
