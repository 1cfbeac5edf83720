"""What is sold: product types, their categories, brands and attributes; behind titles, searches and truth alike."""

from __future__ import annotations

import dataclasses

from distill.data.marketplace import vocabulary as v

BRANDS = {
    "footwear": ("Stridewell", "Korvo", "Peakline", "Amblero", "Zephra"),
    "apparel": ("Northfell", "Calderon", "Wrenly", "Haverly", "Tomsk"),
    "home": ("Lindholm", "Oakmere", "Casavita", "Furnova", "Bexley"),
    "bedding": ("Slumbra", "Dovetta", "Nestwell", "Pilora"),
    "kitchen": ("Ferrocook", "Panora", "Savorin", "Chefwell", "Brasero"),
    "coffee": ("Brewster", "Cafetto", "Morningo", "Javelo"),
    "audio": ("Sonarix", "Auralis", "Tunewave", "Echovo", "Bassani"),
    "phones": ("Nimbus", "Orbix", "Pixelon", "Zentel"),
    "protection": ("Gripzy", "Shellit", "Armorex", "Voltix"),
    "computers": ("Compara", "Lumina", "Byteon", "Vertex", "Quanta"),
    "outdoor": ("Trailor", "Summitra", "Campfell", "Ridgeon", "Wildpine"),
    "pets": ("Pawly", "Barkley", "Furrow", "Whiskora"),
    "floor": ("Vacura", "Cyclono", "Sweepo", "Airova"),
    "tools": ("Torqon", "Ironhand", "Boltmax", "Driltek"),
}
BRAND = v.parse("\n".join(f"{brand} > {brand.lower()}" for brands in BRANDS.values() for brand in brands))

# A target is the brand that an accessory fits.
TARGET = v.parse("\n".join(f"{brand} > for {brand.lower()}" for brands in BRANDS.values() for brand in brands))


@dataclasses.dataclass(frozen=True)
class ProductType:
    """One kind of product. `sellers` and `buyers` are its names in titles and in searches, the commonest first."""

    key: str
    path: tuple[str, str, str]
    sellers: tuple[str, ...]
    buyers: tuple[str, ...]
    brands: tuple[str, ...]
    facets: dict[str, tuple[v.Vocabulary, tuple[str, ...]]]  # facet → its vocabulary and the values this type comes in
    models: tuple[tuple[str, str], ...]  # (model name, brand): the name implies brand and type
    near: tuple[str, ...]  # types that a buyer of this one might accept
    complements: tuple[str, ...]  # types used together with this one


_FIRST = ["aero", "velo", "terra", "luma", "nova", "kilo", "zeno", "giga", "onyx", "astro", "hydro", "tempo"]
_SECOND = ["dash", "flex", "core", "line", "peak", "wave", "beam", "loop", "ridge", "spark"]
_types: dict[str, ProductType] = {}
_names = iter(second_first for second in _SECOND for second_first in (first + second for first in _FIRST))


def _add(
    key: str,
    path: str,
    names: str,
    brands: str,
    colours: str = "",
    materials: str = "",
    size: v.Vocabulary | None = None,
    audience: str = "",
    feature: str = "",
    trim: str = "",
    near: str = "",
    complements: str = "",
    fits: str = "",
    models: int = 0,
) -> None:
    def words(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    sellers, buyers = (words(part) for part in names.split(">"))
    facets: dict[str, tuple[v.Vocabulary, tuple[str, ...]]] = {"brand": (BRAND, BRANDS[brands])}
    for facet, shared, keys in (
        ("colour", v.COLOUR, words(colours)),
        ("material", v.MATERIAL, words(materials)),
        ("audience", v.AUDIENCE, words(audience)),
        ("target", TARGET, BRANDS[fits] if fits else ()),
    ):
        if keys:
            facets[facet] = (shared, keys)
    own = (("size", size), ("feature", v.parse(feature)), ("trim", v.parse(trim)))
    facets |= {facet: (table, tuple(table.forms)) for facet, table in own if table and table.forms}
    lines = [(next(_names), brand) for brand in BRANDS[brands][:models]]
    department, section, leaf = words(path.replace(">", ","))
    _types[key] = ProductType(
        key,
        (department, section, leaf),
        sellers,
        buyers,
        BRANDS[brands],
        facets,
        tuple(lines),
        words(near),
        words(complements),
    )


_SHOE_COLOURS = "black, white, navy, scarlet, ash, camel"
_CLOTHES_COLOURS = "black, navy, burgundy, charcoal, olive, ivory, lavender"
_ROOM_COLOURS = "charcoal, ivory, navy, mustard, olive, blush"
_GADGET_COLOURS = "black, white, cobalt, fuchsia, mint"

# fmt: off
_add("trainers", "Fashion > Footwear > Athletic Footwear",
     "trainers, athletic shoes, runners > sneakers, tennis shoes, gym shoes, trainers", "footwear",
     _SHOE_COLOURS, "mesh, leatherette, canvas, gore-tex", v.SHOE_SIZE, "mens, womens, unisex",
     feature="cushioned > for standing all day, soft\n spiked > for track\n flat sole > for weightlifting",
     trim="lace up > with laces\n velcro > with strap\n elastic > slip on\n without laces, no tie != lace up",
     near="boots", complements="socks", models=5)
_add("boots", "Fashion > Footwear > Outdoor Footwear",
     "trekking boots, hikers > hiking boots, walking boots, mountain boots", "footwear",
     "black, olive, camel, espresso, charcoal", "full grain, suede, gore-tex, rubberized, merino", v.SHOE_SIZE,
     "mens, womens, unisex", feature="safety toe, composite toe > steel toe, for work\n plain toe > soft toe",
     trim="mid ankle > with ankle support\n low cut > low top\n without ankle support != mid ankle",
     near="trainers", complements="socks", models=5)
_add("loafers", "Fashion > Footwear > Dress Footwear",
     "loafers, moccasins > slip ons, dress shoes, loafers, work shoes",
     "footwear", "black, camel, espresso, burgundy, navy", "full grain, suede, leatherette, velvet", v.SHOE_SIZE,
     "mens, womens", trim="penny strap > penny\n tassel > with tassels\n without tassels != tassel",
     complements="socks")
_add("socks", "Fashion > Accessories > Hosiery", "crew hosiery, crew socks > socks, long socks", "footwear",
     _SHOE_COLOURS, "merino, cotton, bamboo, nylon", v.CLOTHES_SIZE, "mens, womens, unisex",
     feature="graduated pressure > compression, for flights\n terry > thick\n ultra thin > no show",
     complements="trainers, boots, loafers")
_add("jacket", "Fashion > Outerwear > Outer Layers", "parka, shell, anorak > jacket, coat, rain jacket", "apparel",
     _CLOTHES_COLOURS, "gore-tex, fleece, goose down, microfiber, full grain", v.CLOTHES_SIZE, "mens, womens, unisex",
     feature="packable > foldable, for travel\n heavyweight > for snow\n reflective > for cycling",
     trim="hooded > with hood\n stand collar > with collar\n without hood, no hood != hooded", models=5, near="hoodie")
_add("hoodie", "Fashion > Tops > Midlayers", "pullover, sweatshirt > hoodie, jumper, sweater", "apparel",
     _CLOTHES_COLOURS, "cotton, fleece, merino, microfiber", v.CLOTHES_SIZE, "mens, womens, unisex",
     feature="slim > fitted\n relaxed > oversized, loose", trim="full zip > zip up\n overhead > pull on\n"
     "without zipper, no zip != full zip", near="jacket, tee")
_add("tee", "Fashion > Tops > Basics", "tee, crewneck > t shirt, shirt, undershirt", "apparel",
     _CLOTHES_COLOURS, "cotton, linen, bamboo, merino, microfiber", v.CLOTHES_SIZE, "mens, womens, unisex",
     feature="3pk > 3 pack, multipack\n 1pc > single", trim="graphic > with print, funny\n solid > plain\n"
     "pocketed > with pocket\n without print, no logo != graphic\n without pocket != pocketed", near="hoodie")
_add("pajamas", "Fashion > Kids > Sleepwear", "pjs, sleepwear > pajamas, nightwear, sleep set", "apparel",
     "navy, mint, blush, sky, mustard, lavender", "cotton, fleece, bamboo, microfiber", v.KIDS_SIZE,
     "boys, girls, unisex",
     feature="dino print > with dinosaurs\n unicorn print > with unicorns\n rocket print > space themed",
     trim="footed > with feet, onesie\n footless > two piece\n without feet != footed")
_add("raincoat", "Fashion > Kids > Kids Outer Layers", "slicker > raincoat, rain jacket", "apparel",
     "navy, scarlet, mustard, fuchsia, mint", "rubberized, nylon, gore-tex", v.KIDS_SIZE, "boys, girls, unisex",
     trim="hooded > with hood\n collared > with collar\n without hood != hooded", near="jacket")
_add("sofa", "Home > Furniture > Living Room Seating", "settee, sectional > couch, sofa", "home",
     _ROOM_COLOURS, "leatherette, full grain, velvet, linen", None,
     feature="3 seater > for three\n 2 seater > loveseat, for small apartment\n 5 seater > for large family, l shaped",
     trim="pull out > sleeper, that turns into bed\n fixed frame > classic\n without bed != pull out", near="armchair",
     complements="rug")
_add("armchair", "Home > Furniture > Living Room Seating",
     "accent seat, recliner > armchair, lounge chair, reading chair",
     "home", _ROOM_COLOURS, "leatherette, full grain, velvet, linen, rattan",
     feature="power motion > electric, for elderly\n swivel > rotating\n rocking > for nursery",
     trim="with ottoman > with footrest\n standalone > chair only\n without footrest != with ottoman", near="sofa",
     complements="rug")
_add("deskchair", "Home > Furniture > Workspace Seating",
     "task seat, ergonomic seat > office chair, computer chair, desk chair",
     "home", "black, ash, white, blush, espresso", "mesh, leatherette, full grain", None,
     feature="lumbar > for back pain\n racer > gaming\n saddle > for posture",
     trim="flip arms > with armrests\n armless > armless\n without arms, no armrests != flip arms", complements="desk",
     models=4)
_add("desk", "Home > Furniture > Workstations", "workstation, writing table > desk, computer table", "home",
     "black, white, espresso, camel", "oak, walnut, stainless, rattan", None,
     feature="sit stand > standing, adjustable height\n corner > l shaped\n wall mount > floating, for small rooms",
     trim="with hutch > with shelves\n open leg > minimalist\n without shelves != with hutch",
     complements="deskchair, lamp")
_add("nightstand", "Home > Furniture > Bedroom Storage", "nightstand > bedside table, end table", "home",
     "black, white, espresso, ash", "oak, walnut, rattan, stainless", None,
     feature="usb port > with charging station\n lockable > with lock\n round > circular",
     trim="2 drawer > with drawers\n open shelf > with shelf\n without drawers != 2 drawer", near="dresser",
     complements="lamp")
_add("dresser", "Home > Furniture > Bedroom Storage", "dresser, tallboy > chest of drawers, bureau", "home",
     "black, white, espresso, ash", "oak, walnut, rattan", None,
     feature="6 drawer > wide\n 4 drawer > narrow, for closet",
     near="nightstand")
_add("lamp", "Home > Decor > Lighting", "luminaire, lantern light > lamp, night light", "home",
     "black, white, mustard, ivory", "ceramic, borosilicate, rattan, aluminum", None,
     feature="dimmable > adjustable brightness\n clip on > for reading\n rgb > color changing",
     trim="rechargeable > cordless\n plug in > with cord\n without cord != plug in", complements="desk, nightstand")
_add("rug", "Home > Decor > Floor Coverings", "rug, floor mat > carpet, area rug", "home",
     _ROOM_COLOURS, "jute, merino, cotton, microfiber", v.RUG_SIZE, feature="shag > fluffy\n low pile > flat, thin",
     trim="tufted fringe > with tassels\n bound edge > clean edge\n without tassels != tufted fringe")
_add("curtains", "Home > Decor > Window Treatments", "drapes, panels > curtains, window covers", "bedding",
     _ROOM_COLOURS, "linen, velvet, cotton, microfiber", None,
     feature="room darkening > blackout, for night shift\n sheer > see through\n thermal > insulated, for winter",
     trim="grommet > with rings\n rod pocket > with sleeve\n without rings != grommet")
_add("duvet", "Home > Bedding > Top Layers", "comforter, coverlet > duvet, quilt", "bedding",
     "white, navy, ash, blush, olive, ivory", "goose down, cotton, bamboo, microfiber, merino", v.BED_SIZE,
     feature="all season > year round\n heavy fill > thick\n weighted > for anxiety, calming", complements="sheets",
     near="sheets")
_add("sheets", "Home > Bedding > Base Layers", "sheet set, percale set > bed sheets, bed linen", "bedding",
     "white, navy, ash, blush, olive, lavender", "cotton, bamboo, linen, microfiber", v.BED_SIZE,
     feature="deep pocket > for thick mattress\n sateen > silky\n jersey > stretchy", complements="duvet")
_add("skillet", "Kitchen > Cookware > Pans", "skillet, fry pan > frying pan, cooking pan", "kitchen",
     "black, scarlet, mint, ivory", "cast iron, stainless, aluminum, ceramic", v.PAN_SIZE,
     feature="ptfe > nonstick\n uncoated > without coating", trim="with cover > with lid\n open > pan only\n"
     "without lid, no lid != with cover", near="pot", models=4)
_add("pot", "Kitchen > Cookware > Pots", "stockpot, casserole > cooking pot, soup pot, dutch oven", "kitchen",
     "black, scarlet, cobalt, ivory, olive", "cast iron, stainless, aluminum, ceramic", v.POT_SIZE,
     feature="enameled > coated\n seasoned > ready to use", near="skillet", models=4)
_add("coffeemaker", "Kitchen > Appliances > Hot Drinks", "drip brewer, filter machine > coffee maker, coffee pot",
     "coffee",
     "black, white, scarlet, mint", "stainless, tritan, borosilicate", v.CUPS,
     feature="programmable > with timer\n grind and brew > with grinder\n thermal carafe > keeps hot",
     near="espresso", complements="filters", models=4)
_add("espresso", "Kitchen > Appliances > Hot Drinks",
     "barista machine, crema machine > espresso machine, latte maker", "coffee",
     "black, white, scarlet, ivory", "stainless, tritan, aluminum", None,
     feature="steam wand > with milk frother, for cappuccino\n capsule > pod\n bean to cup > with grinder, automatic",
     near="coffeemaker", models=4)
_add("filters", "Kitchen > Appliances > Brewing Supplies", "paper cones, basket liners > coffee filters, filter paper",
     "kitchen", "white, camel", "bamboo, cotton, stainless", v.CUPS, feature="100ct > 100 count\n 300ct > bulk",
     complements="coffeemaker", fits="coffee")
_add("bottle", "Kitchen > Drinkware > Flasks", "flask, tumbler > water bottle, drink bottle, thermos", "kitchen",
     _GADGET_COLOURS + ", lavender", "stainless, borosilicate, tritan, titanium, silicone", v.VOLUME,
     feature="vacuum wall > insulated, keeps cold, for hot drinks\n collapsible > foldable\n"
     " infuser > for fruit, for tea",
     trim="straw lid > with straw\n screw cap > leakproof\n without straw, no straw != straw lid")
_add("headphones", "Electronics > Audio > Personal Audio", "over ear headset, cans > headphones, headset", "audio",
     _GADGET_COLOURS, "leatherette, memory foam, aluminum", None, feature="anc > noise cancelling, for airplane\n"
     "hi res > studio, for music production\n surround > gaming", trim="bt 5.0 > wireless, cordless\n"
     "3.5mm > with wire, corded\n without wires != 3.5mm", near="earbuds", complements="phone", models=5)
_add("earbuds", "Electronics > Audio > Personal Audio", "in ear buds, in ears > earbuds, earphones, ear pods", "audio",
     _GADGET_COLOURS, "", None,
     feature="anc > noise cancelling, for airplane\n ipx7 > waterproof, sweatproof, for swimming\n"
     "open fit > for running safely",
     trim="bt 5.0 > wireless, cordless\n 3.5mm > with wire, corded\n without wires != 3.5mm",
     near="headphones", complements="phone", models=5)
_add("speaker", "Electronics > Audio > Room Audio", "soundbox, boombox > speaker, music box", "audio",
     _GADGET_COLOURS, "aluminum, oak, silicone, tritan", None,
     feature="ipx7 > waterproof, for pool, for shower\n 360 sound > surround\n deep bass > loud, for party",
     trim="mic array > with voice assistant, smart\n aux > with aux\n without microphone != mic array",
     complements="phone",
     models=5)
_add("phone", "Electronics > Phones > Handsets", "smartphone, handset > cell phone, mobile phone, phone", "phones",
     "black, white, sky, lavender, mint", "titanium, aluminum, borosilicate", v.STORAGE,
     feature="5g > fast internet\n 4g > lte\n ip68 > waterproof, rugged", trim="sim free > unlocked, without contract\n"
     "carrier locked > prepaid\n dual sim > with two sims", complements="case, charger, earbuds", models=4)
_add("case", "Electronics > Phones > Protection", "bumper, shell cover > phone case, phone cover", "protection",
     _GADGET_COLOURS + ", blush", "leatherette, full grain, silicone, polycarbonate", None,
     feature="magsnap > magnetic\n drop tested > shockproof, rugged\n ultra slim > thin",
     trim="card slot > with wallet, folio\n ring stand > with kickstand\n bare back > simple\n"
     "without wallet != card slot", complements="phone", fits="phones")
_add("charger", "Electronics > Phones > Power", "power brick, wall adapter > charger, charging plug", "protection",
     "black, white", "", None, feature="65w > fast, quick\n 20w > small\n qi > wireless, without cable",
     trim="foldable prong > for travel\n 3 port > for multiple devices, with extra ports\n 1 port > single port",
     complements="phone, laptop", fits="phones")
_add("laptop", "Electronics > Computers > Portables", "notebook, ultrabook > laptop, portable computer", "computers",
     "black, ash, sky, blush", "aluminum, polycarbonate", v.LAPTOP_SIZE,
     feature="rtx > gaming, for video editing\n 16h battery > long battery, for students\n"
     " 2 in 1 > touchscreen, convertible",
     trim="win 11 > with windows\n linux > for developers, without windows\n", complements="sleeve, charger, monitor",
     models=5)
_add("sleeve", "Electronics > Computers > Carrying", "sleeve, pouch > laptop case, laptop bag, laptop cover",
     "protection",
     "black, ash, navy, blush, olive", "leatherette, canvas, nylon, full grain", v.LAPTOP_SIZE,
     feature="padded > protective, shockproof\n slim > thin",
     trim="with handle > with handles\n shoulder strap > with strap\n"
     "without strap != shoulder strap", complements="laptop", fits="computers")
_add("monitor", "Electronics > Computers > Displays", "display, lcd panel > monitor, computer screen", "computers",
     "black, white", "", v.SCREEN_SIZE,
     feature="144hz > gaming, fast\n uhd > 4k, for photo editing\n ips matte > for office",
     trim="ultrawide curve > curved\n flat panel > flat\n without curve, not curved != ultrawide curve",
     complements="laptop, desk", models=5)
_add("tent", "Outdoors > Camping > Shelters", "dome shelter, bivy > tent, camping tent", "outdoor",
     "olive, mustard, scarlet, sky", "nylon, canvas, rubberized", v.PERSONS, feature="4 season > for winter, for snow\n"
     "3 season > for summer\n ultralight > for backpacking",
     trim="instant pole > pop up, easy setup\n guyed > classic\n"
     "inflatable > without poles", complements="sleepingbag", models=5)
_add("sleepingbag", "Outdoors > Camping > Sleep Systems", "mummy bag, quilted bag > sleeping bag", "outdoor",
     "olive, navy, scarlet, charcoal", "goose down, microfiber, cotton, fleece", None, "mens, womens, boys, unisex",
     feature="20f rated > for cold weather, for winter\n 50f rated > for summer",
     trim="with sack > with bag\n two way zip > with zipper\n without zipper != two way zip", complements="tent")
_add("suitcase", "Outdoors > Travel > Trolleys", "spinner, trolley > suitcase, rolling bag", "outdoor",
     "black, navy, blush, mint, burgundy, ash", "polycarbonate, aluminum, nylon, leatherette", v.LUGGAGE_SIZE,
     feature="tsa latch > with lock\n expandable > extra space\n trackable > with gps",
     trim="8 wheel > four wheels\n 2 wheel > two wheels", near="backpack", models=4)
_add("backpack", "Outdoors > Travel > Packs", "rucksack, daypack > backpack, book bag", "outdoor",
     "black, navy, olive, camel, fuchsia, charcoal", "canvas, nylon, full grain, rubberized", v.PACK_SIZE,
     "mens, womens, unisex",
     feature="laptop slot > with laptop compartment, for work\n bladder port > for hydration, for cycling\n"
     "anti theft > secure, for city trips", trim="hip belt > with waist strap\n no frame > casual\n"
     "without waist strap != hip belt", near="suitcase", models=4)
_add("dogbed", "Pets > Dogs > Resting", "pet lounger, orthopedic cushion > dog bed, puppy bed", "pets",
     "ash, espresso, navy, olive, ivory", "memory foam, cotton, microfiber, velvet", v.PET_SIZE,
     feature="cooling > for hot weather\n self heating > warm\n chew proof > tough",
     trim="bolstered > with sides\n flat > mat\n without sides != bolstered")
_add("leash", "Pets > Dogs > Walking", "lead, tether > leash, dog rope", "pets",
     "black, scarlet, cobalt, fuchsia, olive", "nylon, full grain, cotton", None,
     feature="retractable > extendable\n hands free > for running, for jogging\n double handle > for training",
     trim="reflective > for night\n plain > simple", complements="collar", near="")
_add("collar", "Pets > Dogs > Walking", "neckband, harness > collar, dog collar", "pets",
     "black, scarlet, cobalt, fuchsia, camel", "nylon, full grain, leatherette", v.PET_SIZE,
     feature="gps tag > tracking\n quick release > with buckle\n martingale > no pull",
     trim="engraved > with name, personalized\n blank > simple\n without name != engraved", complements="leash")
_add("vacuum", "Home > Floor Care > Cleaners", "vac, hoover > vacuum cleaner, vacuum", "floor",
     "black, scarlet, cobalt, ash", "", None, feature="stick > lightweight, for stairs\n robotic > robot, automatic\n"
     "canister > for carpet", trim="li ion > cordless, battery\n mains > corded, with cord\n without cord != mains",
     complements="vacfilter", models=4)
_add("vacfilter", "Home > Floor Care > Cleaner Parts", "hepa cartridge, dust bags > vacuum filter, vacuum bags",
     "floor",
     "", "", None, feature="2pk > 2 pack\n 6pk > 6 pack, bulk", trim="rinseable > washable\n one use > disposable",
     complements="vacuum", fits="floor")
_add("drill", "Tools > Power Tools > Drivers", "driver, hammer driver > drill, power drill", "tools",
     "", "", None, feature="20v > powerful, for concrete\n 12v > compact, for furniture\n 8v > for beginners",
     trim="li ion > cordless, battery\n mains > corded, with cord\n without cord != mains", complements="bits",
     models=4)
_add("bits", "Tools > Power Tools > Driver Parts", "bit set, augers > drill bits, drill set", "tools",
     "", "titanium, stainless", None, feature="masonry > for concrete, for brick\n spade > for wood\n hss > for metal",
     trim="with box > with case\n loose > without case", complements="drill", fits="tools")
# fmt: on

TYPES: tuple[ProductType, ...] = tuple(_types.values())
TYPE_INDEX = {kind.key: i for i, kind in enumerate(TYPES)}

# Broad searches that several product types meet.
FAMILIES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("trainers", "boots", "loafers"): ("shoes", "footwear"),
    ("jacket", "hoodie"): ("outerwear", "cold weather clothes"),
    ("hoodie", "tee"): ("tops", "casual wear"),
    ("pajamas", "raincoat"): ("kids clothes", "childrens clothes"),
    ("sofa", "armchair"): ("seating", "living room furniture"),
    ("nightstand", "dresser"): ("bedroom furniture",),
    ("desk", "deskchair"): ("office furniture",),
    ("duvet", "sheets"): ("bedding",),
    ("skillet", "pot"): ("cookware", "pots and pans"),
    ("coffeemaker", "espresso"): ("coffee machine",),
    ("headphones", "earbuds"): ("audio gear",),
    ("case", "charger"): ("phone accessories",),
    ("tent", "sleepingbag"): ("camping gear",),
    ("suitcase", "backpack"): ("luggage", "travel bags"),
    ("leash", "collar"): ("dog walking gear",),
}

# The search engine's hand-made synonym list: it knows the commonest name of each product, and no attribute.
ENGINE_SYNONYMS: dict[str, str] = {kind.buyers[0]: " ".join(kind.sellers) for kind in TYPES}
