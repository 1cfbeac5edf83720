"""What `prepare` did with its sources, counted: for a reader and for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Reasons for quarantine that another table is the cause of.
QUARANTINED = {"item_id": "item_id: its item was quarantined", "keyphrase": "keyphrase: itself quarantined"}
NOT_THERE = {"item_id": "item_id: not in the items table", "keyphrase": "keyphrase: not in the keyphrases table"}
LEFT_OUT = "left out, as data.sources says"


@dataclasses.dataclass
class TableSummary:
    """Counts of one table; `rows` is the sum of `kept`, `quarantined`, `merged` and `removed`.

    Rows of `events` are put together with those of `clicks`; a pair that both have is kept under `clicks`.
    """

    file: str
    rows: int = 0
    kept: int = 0
    training: int = 0  # of the kept rows
    holdout: int = 0  # of the kept rows
    quarantined: int = 0
    consequences: int = 0  # of the quarantined rows: only their item or keyphrase was bad; not part of the bad share
    merged: int = 0
    removed: int = 0  # training rows on a human query or a near-duplicate of one, and impossible clicks
    impossible: int = 0  # of the removed rows: pairs with more clicks than an audience gives
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)  # of the quarantined rows
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # reason → first rows, as file:line
    personal: dict[str, int] = dataclasses.field(default_factory=dict)  # kind → rows with it in their keyphrase
    masked: bool = False  # personal data was masked


@dataclasses.dataclass
class Summary:
    """What `prepare` did with a data directory."""

    tables: dict[str, TableSummary] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # missing table → what the run does without
    notices: list[str] = dataclasses.field(default_factory=list)
    split_from: str = ""  # `items table`, `title clusters` or `earlier run`
    train_items: int = 0
    holdout_items: int = 0
    twins_across_splits: int = 0  # held-out items with a twin title in training
    known_items: int = 0  # that an earlier run had split
    items_after_twins: int = 0  # new items that went where their twins were
    items_between_twins: int = 0  # of those: with twins on both sides, and so held out
    human_queries: int = 0  # keyphrases that are one
    near_duplicates: int = 0  # keyphrases that nearly are one
    unseen_clicks: int = 0  # clicks in `events` beyond a pair's impressions there; each counts as an impression too
    blocked_keyphrases: int = 0
    unmatched_blocks: int = 0  # blocklist entries that no keyphrase answers to
    position_bias: str = ""  # how fast examination falls with the rank, where the log tells

    def remove_clicks(self, pairs: Mapping[str, int]) -> None:
        """Notes pairs, `training` and `holdout`, that were taken out of the clicks table after it was made.

        Which of two tables a pair came from is not kept: `clicks` is charged as far as it has rows, then `events`.
        """
        for split, count in pairs.items():
            for name in ("clicks", "events"):
                if (table := self.tables.get(name)) is not None and count:
                    taken = min(count, getattr(table, split))
                    setattr(table, split, getattr(table, split) - taken)
                    table.kept -= taken
                    table.removed += taken
                    table.impossible += taken
                    count -= taken

    def lines(self) -> list[str]:
        """The summary for a reader, a line each."""
        out = []
        for name, table in self.tables.items():
            parts = [f"{table.kept:,} kept"]
            if table.training or table.holdout:
                parts[0] += f" ({table.training:,} training, {table.holdout:,} held out)"
            parts += [f"{getattr(table, what):,} {what}" for what in ("quarantined", "merged", "removed")]
            out.append(f"{name}: {table.rows:,} rows in {table.file} = {' + '.join(parts)}")
            out += [f"  quarantined {count:,}: {reason}" for reason, count in table.reasons.items()]
            out += [f"  removed {table.impossible:,}: clicked more often than people click"] * bool(table.impossible)
            if table.masked:
                out += [f"  holding {kind}: {count:,} rows" for kind, count in table.personal.items()]
        out.append(
            f"split from the {self.split_from}: {self.train_items:,} train, {self.holdout_items:,} holdout items; "
            f"{self.twins_across_splits:,} holdout items have a twin title in train"
        )
        if self.split_from == "earlier run":
            out.append(
                f"  {self.known_items:,} items keep their split; {self.items_after_twins:,} new ones followed a twin, "
                f"{self.items_between_twins:,} of them with twins on both sides, and so held out"
            )
        out.append(
            f"kept out of training: {self.human_queries:,} keyphrases that are human queries, "
            f"{self.near_duplicates:,} near-duplicates of one"
        )
        if "blocklist" in self.tables:
            out.append(
                f"blocklist: {self.blocked_keyphrases:,} keyphrases are blocked; "
                f"{self.unmatched_blocks:,} entries match none"
            )
        if self.unseen_clicks:
            out.append(
                f"events: {self.unseen_clicks:,} clicks have no impression; each counts as one impression and one click"
            )
        if self.position_bias:
            out.append(f"position bias: {self.position_bias}")
        out += [f"no table {name}: left out is {what}" for name, what in self.left_out.items()]
        return out + [f"notice: {notice}" for notice in self.notices]
