"""Settings of the screening that cannot work are named with their value."""

from __future__ import annotations

import pytest

from distill.config import ConfigError, Experiment, ScreeningConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"personal_data": "hide"}, r"screening\.personal_data='hide'"),
        ({"impossible_clicks": "mask"}, r"screening\.impossible_clicks='mask'"),
        ({"possible_ctr": 1.0}, r"screening\.possible_ctr=1\.0"),
        ({"possible_ctr": 0.0}, r"screening\.possible_ctr=0\.0"),
        ({"phone_regions": ("us",)}, "'us'"),
        ({"phone_regions": ("USA",)}, "'USA'"),
    ],
)
def test_a_setting_that_cannot_work(settings, named):
    experiment = Experiment()
    experiment.judge.backend = "simulated"
    experiment.data.screening = ScreeningConfig(**settings)
    with pytest.raises(ConfigError, match=named):
        experiment.validate()


def test_no_region_at_all_leaves_international_numbers():
    experiment = Experiment()
    experiment.judge.backend = "simulated"
    experiment.data.screening.phone_regions = ()
    experiment.validate()
