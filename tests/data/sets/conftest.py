from pathlib import Path

import pytest

from distill.data.sets.build import Built, build

FAKE = Path(__file__).parent / "fake_data"


@pytest.fixture(scope="session")
def esci(tmp_path_factory) -> Built:
    return build("amazon_esci", FAKE / "amazon_esci", tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def wands(tmp_path_factory) -> Built:
    return build("wayfair_wands", FAKE / "wayfair_wands", tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def own(tmp_path_factory) -> Built:
    return build("marketplace", FAKE / "marketplace", tmp_path_factory.mktemp("tfds"))
