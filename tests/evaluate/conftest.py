"""The report of everything that a run can know, rendered once for each file of tests."""

import pytest

from distill.evaluate.report import render_report
from tests.evaluate.report_page import full


@pytest.fixture(scope="module")
def data():
    return full()


@pytest.fixture(scope="module")
def page(data):
    return render_report(data)
