"""One's own logs → checked, split, leak-free tables (`prepare.prepare`).

Read in this order, after `distill.data.schema` (what a row must be): `sources` and `readers` (files → chunks of rows),
`checking` (rows → good rows and quarantine), `catalogue` (items and keyphrases, numbered and split), `pair_rows` (two
steps for a table of pairs), then what runs them: `pair_tables` in this process, `beam_prepare` on a cluster.
"""
