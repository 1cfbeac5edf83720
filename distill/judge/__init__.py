"""The judge: what it is asked, how it answers, what is kept of that, and how far to trust it.

| part | modules |
|---|---|
| what is asked | `selection` (a budget over strata), `disagreement` (an active round) |
| in which words | `rubric`, `prompt` over `sanitising` (titles are strangers' texts), `parsing` |
| who answers | `backends` (the protocol; replay, simulated), `endpoint` and `batch_files` over `chat_calls`, \
`language_model` over `branching` and `scoring` |
| what is kept | `asking` (the loop), `store` over `store_files` and `records` |
| how far to trust it | `agreement` with people, `consistency` with itself, `calibration` |
"""
