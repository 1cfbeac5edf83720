"""Which queries train and which are the referee: by hash, a whole query at a time."""

from __future__ import annotations

import dataclasses
import hashlib

from distill.data.text import normalise_keyphrase


@dataclasses.dataclass(frozen=True)
class QueryShares:
    """Shares of the queries that referee; the others train."""

    valid: float
    test: float


def query_split(salt: str, query: str, shares: QueryShares) -> str:
    """`valid`, `test` or `train` of a query: a function of its normal form alone, so spellings stay together.

    `salt` is the set's name, so that two sets do not hold out the same queries. A change of the normal form may move
    queries, and so is another version of the builders.
    """
    digest = hashlib.blake2b(f"{salt}\n{normalise_keyphrase(query)}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < shares.test:
        return "test"
    return "valid" if place < shares.test + shares.valid else "train"
