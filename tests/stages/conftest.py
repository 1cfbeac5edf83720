"""A run that is finished up to the index, and versions of it."""

import pytest

from distill.stages.versions import publish_run
from tests.stages.serving_versions import make_run


@pytest.fixture(scope="session")
def yesterday(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "yesterday")


@pytest.fixture
def root(yesterday, tmp_path):
    publish_run(tmp_path / "serving", yesterday)
    return tmp_path / "serving"
