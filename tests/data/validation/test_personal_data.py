"""Personal data in keyphrases is found strictly, and never written out again."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.config import DataConfig, MarketplaceConfig, ScreeningConfig
from distill.data.marketplace.world import World
from distill.data.preparation.prepare import prepare
from distill.data.tables import Prepared
from distill.data.text import normalise_keyphrase
from distill.data.validation.personal_data import KINDS, mask, mask_raw, screen
from tests.data.preparation.test_prepare import marketplace, save

US = ("US",)
EMAIL, PHONE, CARD = "jane.roe@example.com", "415-555-2671", "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jane.roe@example.com please", "mail [email] please"),
        ("o'neil+ads@mail.example.co.uk", "[email]"),
        ("call 415-555-2671", "call [phone]"),
        ("(650) 253-0000 pizza", "[phone] pizza"),
        ("415.555.2671", "[phone]"),
        ("1-800-742-5877", "[phone]"),
        ("tel. no. 4155552671", "tel. no. [phone]"),
        ("+44 20 7031 3000 london", "[phone] london"),
        ("４１５-５５５-２６７１", "[phone]"),
        ("4111 1111 1111 1111 visa", "[card] visa"),
        ("5555555555554444", "[card]"),
        ("3782 822463 10005", "[card]"),
        ("a@b.com or 415-555-2671", "[email] or [phone]"),
        ("visa 4111 1111 1111 1111 12/25 123", "visa [card] 12/25 123"),
        ("2 4111-1111-1111-1111", "2 [card]"),
        ("card no.4111111111111111.", "card no.[card]."),
        ("4111111111111111 5555 5555 5555 4444", "[card] [card]"),
        ("call us at 415 555 2671", "call us at [phone]"),
        ("télé +33 1 42 68 53 00", "télé [phone]"),
    ],
)
def test_personal_data_is_masked(text, masked):
    assert mask(text, US)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "5304492436 frigidaire",  # a part number that is also a valid phone number
        "220 320 2000 grit sandpaper",
        "650 253 0000",
        "12x18x24 box",
        "2022-2023 pocket calendar",
        "1/4-20 x 3/8 bolt",
        "90210-1234",
        "978-0-545-58288-1",  # ISBN
        "4006381333931",  # EAN-13 that begins like a Visa card
        "4111 1111 1111 1112",  # fails Luhn's check
        "1234567890123452",  # passes it, but nobody issues 1…
        "size 41 42 43 44 45 46 47 48",  # passes it too, but no card is grouped so
        "1.4111111111111111",
        "hat @ home.",
        "@handle.com",
        "user@host",
        "dewalt dcd771c2 20v",
        "iphone 13 128gb 5000mah",
        "",
        "красные ботинки 2020 2021 2022",
    ],
)
def test_what_a_marketplace_is_full_of_stays(text):
    assert mask(text, ("US", "GB", "DE", "FR")) == (text, ())


@pytest.mark.parametrize(
    ("region", "text"), [("GB", "020 7031 3000"), ("FR", "01 23 45 67 89"), ("DE", "030 901820 oder 030/901820-0")]
)
def test_national_numbers_are_known_in_their_regions_alone(region, text):
    assert mask(text, ()) == (text, ())
    if region != "DE":  # grouped by blanks alone: the leading 0 gives them away
        assert mask(text, (region,))[0] == "[phone]"


def test_issuers_prefixes_with_check_digits_by_hand():
    # Every second digit from the left doubled: 6 → 12 → 1 + 2, 1 → 2; with the other 1 they sum to 6, so 4 is missing.
    good = [digit for digit in range(10) if mask(f"601100000000000{digit}", US)[1]]
    assert good == [4]


@pytest.mark.parametrize(
    "text",
    [
        "4111  1111  1111  1111",
        "4111\t1111 1111\n1111",
        "4111\u200b1111\u200b1111\u200b1111",  # zero-width spaces
        "4111\u00ad1111\u00ad1111\u00ad1111",  # soft hyphens
        "4111–1111–1111–1111",
        "4111\u20111111\u20111111\u20111111",  # hyphens that do not break
        "415−555−2671",  # minus signs
        "call 415\u2060-555-2671",
        "\u202ajane.roe@exam\u00adple.com\u202c",
    ],
)
def test_what_cannot_be_seen_hides_nothing(text):
    assert mask(text, US)[1] == (KINDS.index(_kind_of(text)),)
    assert screen(pa.array(["red boot", text]), US).kind.tolist() == [-1, KINDS.index(_kind_of(text))]


def _kind_of(text: str) -> str:
    return "an e-mail address" if "@" in text else "a card number" if text.startswith("4111") else "a phone number"


@given(
    st.lists(
        st.sampled_from(
            [EMAIL, PHONE, *CARD.split(), "call", "4", "-", " ", "  ", "\t", "\u200b", "\u00ad", "\u2011", "x"]
        ),
        max_size=9,
    ).map("".join)
)
@example("4111\u00a0\u200b1111 1111 1111")
def test_no_normal_form_shows_what_was_overlooked(text):
    assert mask(text, US)[1] or not mask(normalise_keyphrase(text), US)[1]


@given(st.text(max_size=60))
def test_masking_is_idempotent_and_leaves_other_texts_alone(text):
    masked, kinds = mask(text, US)
    assert mask(masked, US) == (masked, ())
    assert kinds or masked == text


@given(st.lists(st.sampled_from(["red boot", EMAIL, f"call {PHONE}", CARD, "ß", ""]), max_size=8))
def test_columns_are_screened_as_their_texts_are(texts):
    found = screen(pa.array(texts, pa.string()), US)
    expected = [mask(text, US) for text in texts]
    assert found.texts.to_pylist() == [text for text, _ in expected]
    assert found.kind.tolist() == [kinds[0] if kinds else -1 for _, kinds in expected]
    assert found.empty.tolist() == [text in (EMAIL, CARD) for text in texts]


def test_a_raw_row_is_masked_in_its_place():
    row = json.dumps({"item_id": "i1", "keyphrase": f"call {PHONE}", "clicks": 2})
    assert json.loads(mask_raw(row, US, True, 2000)) == {"item_id": "i1", "keyphrase": "call [phone]", "clicks": 2}
    counts = "i1\tred boot\t415\t555\t2671"
    assert mask_raw(counts, US, False, 2000) == counts


@pytest.mark.parametrize(
    ("row", "masked"),
    [
        (f"x,i1,{CARD},1", "x,i1,[card],1"),  # a digit and a comma before it
        (f"i1,{CARD.replace(' ', '')}", "i1,[card]"),
        (f"i1\t{EMAIL}\t4", "i1\t[email]\t4"),
        ('I1,"Red Boot",415,555,2671,2026-11-24T02:00:00Z', 'I1,"Red Boot",415,555,2671,2026-11-24T02:00:00Z'),
        ("i1\t4111  1111  1111  1111\t3", "[masked]"),
        (f"i1\t{EMAIL[:-3]}\u00adcom\t3", "[masked]"),
    ],
)
def test_a_malformed_raw_row_is_masked_field_by_field(row, masked):
    assert mask_raw(row, US, False, 2000) == masked


def test_a_raw_row_whose_personal_data_is_escaped_goes_as_a_whole():
    row = json.dumps({"keyphrase": "４１５-５５５-２６７１"})
    assert "\\uff14" in row
    assert mask_raw(row, US, True, 2000) == "[masked]"


def test_an_address_at_the_cut_leaves_no_half_of_it():
    row = "x" * 90 + " " + EMAIL + " tail"
    assert mask_raw(row, US, True, 100) == "x" * 90 + " [email] t"
    many = " ".join([EMAIL] * 200)
    assert "jane" not in mask_raw(many, US, True, 500)
    assert mask_raw("@" * 4_000_000, US, False, 100) == "@" * 100  # and a long row costs no time


def _with_personal_data() -> dict[str, list[dict]]:
    tables = marketplace()
    tables["keyphrases"] += [
        {"keyphrase": text, "search_volume": 9} for text in (EMAIL, f"CALL {PHONE}", "call 415-555-9999")
    ]
    for name in ("clicks", "recommendations"):
        tables[name] += [{**tables[name][0], "keyphrase": text} for text in (EMAIL, f"call {PHONE}")]
    tables["human"].append({**tables["human"][0], "keyphrase": f"call {PHONE}"})
    tables["clicks"].append({**tables["clicks"][0], "item_id": "unknown", "keyphrase": EMAIL})  # bad for two reasons
    return tables


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "csv", "parquet"])
def test_dropped_personal_data_is_in_no_file_that_prepare_writes(tmp_path, kind):
    source = save(tmp_path / "data", _with_personal_data(), kind)
    out = tmp_path / "out"
    summary = prepare(source, out, DataConfig(max_bad_share=0.5))
    reasons = summary.tables["keyphrases"].reasons
    assert reasons == {"keyphrase: holds a phone number": 2, "keyphrase: holds an e-mail address": 1}
    assert summary.tables["clicks"].personal == {"an e-mail address": 2, "a phone number": 1}
    for table in summary.tables.values():
        assert table.rows == table.kept + table.quarantined + table.merged + table.removed
    for path in out.rglob("*"):
        if path.is_file():
            assert EMAIL.encode() not in path.read_bytes() and PHONE.encode() not in path.read_bytes(), path
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert "[email]" in "".join(line["raw"] for line in lines) and "[phone]" in "".join(line["raw"] for line in lines)
    assert len(lines) == sum(table.quarantined for table in summary.tables.values())


def test_dropped_personal_data_does_not_count_as_damage(tmp_path):
    summary = prepare(save(tmp_path / "data", _with_personal_data()), tmp_path / "out", DataConfig(max_bad_share=0.06))
    assert summary.tables["keyphrases"].consequences == 3


def test_masked_keyphrases_meet_and_merge(tmp_path):
    config = DataConfig(screening=ScreeningConfig(personal_data="mask"), max_bad_share=1.0)
    summary = prepare(save(tmp_path / "data", _with_personal_data()), tmp_path / "out", config)
    prepared = Prepared(tmp_path / "out")
    assert prepared.keyphrases.count("call [phone]") == 1
    counts = summary.tables["keyphrases"]
    assert (counts.kept, counts.merged, counts.quarantined) == (6, 1, 1)  # the bare address leaves no keyphrase
    clicks = prepared.training("clicks")
    assert clicks is not None
    # "call [phone]" is a human query, so its clicks are kept out of training.
    assert prepared.keyphrases.index("call [phone]") not in clicks["keyphrase"]
    assert summary.tables["clicks"].removed > 0
    assert any("holding a phone number" in line for line in summary.lines())


def test_kept_personal_data_is_reported(tmp_path):
    config = DataConfig(screening=ScreeningConfig(personal_data="keep"), max_bad_share=1.0)
    summary = prepare(save(tmp_path / "data", _with_personal_data()), tmp_path / "out", config)
    assert EMAIL in Prepared(tmp_path / "out").keyphrases
    assert summary.tables["keyphrases"].personal == {"a phone number": 2, "an e-mail address": 1}
    found = json.loads((tmp_path / "out" / "validation.json").read_text())["findings"]
    assert any("kept, as the settings say" in one["message"] for one in found)


def test_no_false_alarm_on_real_keyphrases(esci_ads):
    with gzip.open(esci_ads / "keyphrases.tsv.gz", "rt", encoding="utf-8") as lines:
        texts = [line.split("\t")[0] for line in lines][1:]
    assert len(texts) > 10_000
    assert (screen(pa.array(texts), ("US", "GB", "DE", "FR")).kind >= 0).sum() == 0


def test_no_false_alarm_on_the_marketplace():
    world = World(MarketplaceConfig(items=300, keyphrases=1000), 0)
    assert (screen(pa.array(world.keyphrases), US).kind >= 0).sum() == 0


def test_numbers_drawn_at_random_are_hardly_ever_taken_for_personal_data():
    rng = np.random.default_rng(0)
    for digits, most in ((10, 0), (13, 0), (16, 0.05)):
        texts = ["part " + "".join(map(str, row)) for row in rng.integers(0, 10, (600, digits)).tolist()]
        assert (screen(pa.array(texts), US).kind >= 0).mean() <= most
