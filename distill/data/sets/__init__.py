"""Public data sets and one's own data directory as TFDS data sets (ArrayRecord), and from there data directories.

official.py   which files a public set consists of: page, licence, citation, checksums, download
esci.py       Amazon ESCI (Shopping Queries): official files → rows of the contract's tables
wands.py      Wayfair WANDS, the same
own.py        a directory of one's own, in any format of the contract
survey.py     rows → checked rows, counts, quarantine
features.py   a table of the contract ⇄ TFDS features ⇄ Arrow
builders.py   the TFDS builders `amazon_esci`, `wayfair_wands`, `marketplace`
build.py      builds all tables of a set; writes them as a data directory
reading.py    rows as a Grain data set: element i is a function of (seed, i) alone

A set is one builder; each table of the contract is one config of it (`amazon_esci/us_small_human`), because tables have
different columns and TFDS has one structure of features a config. The splits of a config are the values of the table's
`split` column; a table without one (or a row that leaves it empty) is in `train`.
"""
