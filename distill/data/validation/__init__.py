"""Validation of a data directory: findings that a person can act on, and the screening of well-formed rows.

findings.py          what a finding is, how it is ordered, printed and stored
about.py             what a data directory says of itself: source, licence, what is simulated
personal_data.py     e-mail addresses, phone and card numbers in keyphrases
impossible_clicks.py pairs clicked more often than people click
distributions.py     the shape of the prepared tables, as counts
drift.py             two snapshots compared
languages.py, titles.py, relations.py, intake.py   the checks
validate.py          all of them over one prepared folder
"""
