"""Texts that try a tokenizer: all planes of Unicode, what looks alike, what combines, what is too long."""

from __future__ import annotations

import random

_WORDS = (
    "garden",
    "hose",
    "NOISE",
    "Cancelling",
    "headphones",
    "Ünïcödé",
    "naïve",
    "5,5mm",
    "Größe",
    "İSTANBUL",
    "ΣΑΣ",
)
_KNOWN = (
    "[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]", "[SEP", "SEP]", "[[SEP]]", "##ing", "##", "[unused0]",
    "\u0130", "\u0131", "ß", "ẞ", "ſ", "Ǆ", "ﬁ", "ﷺ", "㍿", "Å", "\u212b", "A\u030a", "q\u0307\u0323",
    "\u1e9b\u0323", "👩\u200d👩\u200d👧", "🇹🇷", "👍🏽", "1\ufe0f\u20e3", "한국어", "\u1112\u1161\u11ab", "中文",
    "日本語テキスト", "ｆｕｌｌ ｗｉｄｔｈ", "مرحبا", "שָׁלוֹם", "हिन्दी", "ไทย", "\u0f73\u0f71", "\u202eRTL\u202c",
    "\ufeff", "\u200b", "\u2028", "\u2029", "\x85", "\x00", "\x7f", "\ufffd", "\ufffe", "\uffff", "\U0010ffff",
    "\u0378", "\ue000", "\u3000", "\u00a0", "\u00ad", "\u034f", "\t\r\n", "\U0001d15e", "\U0001d160\u302e",
    "\u302e\U0001d165\u1b44", "\u08d4\u302f\u0301", "\U0001e94a\u1baa", "\U00011446\U0001d16d",
)  # fmt: skip
_RANGES = (
    (0x20, 0x7F), (0x00, 0x20), (0x80, 0x250), (0x250, 0x600), (0x300, 0x370), (0x600, 0x1000), (0x1AB0, 0x1B80),
    (0x1DC0, 0x2000), (0x2000, 0x2070), (0x2000, 0x3000), (0x302A, 0x3030), (0x3000, 0x4E00), (0x4E00, 0xA000),
    (0xA000, 0xD800), (0xE000, 0x10000), (0x10000, 0x12000), (0x1D100, 0x1D200), (0x1E000, 0x1E960), (0x1F000, 0x20000),
    (0x20000, 0x30000), (0x30000, 0x110000),
)  # fmt: skip


def unicode_texts(count: int, seed: int) -> list[str]:
    """`count` texts, a function of the seed."""
    rng = random.Random(seed)

    def piece() -> str:
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(_WORDS)
        if kind < 0.55:
            return rng.choice(_KNOWN)
        if kind < 0.95:
            return "".join(chr(rng.randrange(*rng.choice(_RANGES))) for _ in range(rng.randint(1, 6)))
        # Around the longest word, in characters of one to four bytes.
        return rng.choice("aé中\u0939\U0001f600\u0301") * rng.choice((99, 100, 101, 250))

    joints = ("", "", " ", " ", "-", "\u0301", "\u200d")
    return ["".join(piece() + rng.choice(joints) for _ in range(rng.randint(0, 9))) for _ in range(count)]
