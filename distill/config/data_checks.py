"""What the settings of `data` may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.config.rules import ConfigError, at_least, between_0_and_1, one_of, positive

if TYPE_CHECKING:
    from distill.config import settings


def check_data(data: settings.DataConfig) -> None:
    market = data.marketplace
    at_least("data.marketplace.items", market.items, 50)
    at_least("data.marketplace.keyphrases", market.keyphrases, 100)
    between_0_and_1("data.marketplace.holdout_share", market.holdout_share)
    at_least("data.marketplace.human_queries", market.human_queries, 10)
    if market.human_queries > market.keyphrases // 4:
        raise ConfigError(
            f"config.data.marketplace.human_queries={market.human_queries}: "
            f"at most a quarter of keyphrases={market.keyphrases}, or too little is left to train on"
        )
    at_least("data.marketplace.searches", market.searches, 1)
    at_least("data.marketplace.search_relevance_per_item", market.search_relevance_per_item, 1)
    for name in ("max_bad_share", "holdout_share", "twin_title_jaccard", "near_duplicate_jaccard"):
        between_0_and_1(f"data.{name}", getattr(data, name))
    for name in ("twin_title_jaccard", "near_duplicate_jaccard"):
        positive(f"data.{name}", getattr(data, name))
    check_screening(data.screening)
    for table, source in vars(data.sources).items():
        _check_source(f"data.sources.{table}", source, bool(data.dir))
    if data.embedded and (data.previous or data.beam):
        name = "previous" if data.previous else "beam"
        raise ConfigError(
            f"config.data.{name}={getattr(data, name)!r}: is for data of your own; set data.dir or data.sources"
        )


def check_screening(screening: settings.ScreeningConfig) -> None:
    one_of("data.screening.personal_data", screening.personal_data, ("drop", "mask", "keep"))
    one_of("data.screening.impossible_clicks", screening.impossible_clicks, ("drop", "keep"))
    for region in screening.phone_regions:
        if not (len(region) == 2 and region.isascii() and region.isalpha() and region.isupper()):
            raise ConfigError(
                f"config.data.screening.phone_regions: {region!r} is no country code of two capitals, such as 'US'"
            )
    if not 0 < screening.possible_ctr < 1:
        raise ConfigError(
            f"config.data.screening.possible_ctr={screening.possible_ctr}: must lie between 0 and 1, both excluded"
        )


def _check_source(path: str, source: settings.SourceConfig, in_directory: bool) -> None:
    one_of(f"{path}.format", source.format, ("", "parquet", "jsonl", "tsv", "csv"))
    if "" in source.files:
        raise ConfigError(f"config.{path}.files={source.files!r}: holds an empty name; remove it")
    for name in ("columns", "values"):
        if getattr(source, name) and not (source.files or in_directory):
            raise ConfigError(f"config.{path}.{name}={getattr(source, name)!r}: there are no files to rename {name} of")
    yours: dict[str, str] = {}
    for pair in source.columns:
        contract, equals, your = pair.partition("=")
        if not equals or not contract:
            raise ConfigError(f"config.{path}.columns: {pair!r} must be written contract_name=your_name")
        if contract in yours:
            raise ConfigError(f"config.{path}.columns: {contract!r} is given twice; remove one of them")
        if your and your in yours.values():
            raise ConfigError(f"config.{path}.columns: {your!r} stands for two columns; name another for one of them")
        yours[contract] = your
    met: set[tuple[str, str]] = set()
    for triple in source.values:
        column, colon, pair = triple.partition(":")
        your, equals, _ = pair.rpartition("=")
        if not (colon and equals and column and your.strip()):
            raise ConfigError(f"config.{path}.values: {triple!r} must be written column:your_value=contract_value")
        if (column, your.strip().lower()) in met:
            raise ConfigError(f"config.{path}.values: {your!r} of {column!r} is given twice; remove one of them")
        met.add((column, your.strip().lower()))
