"""One's own logs → checked, split, leak-free tables (`prepare.prepare`).

Read in this order: `schema` (what a row must be), `sources` and `readers` (files → chunks of rows), `checking` (rows →
good rows and quarantine), `catalogue` (items and keyphrases, numbered and split), `pair_rows` (the two steps of a table
of pairs), then what runs them: `pair_tables` in this process, `beam_prepare` on a cluster.
"""
