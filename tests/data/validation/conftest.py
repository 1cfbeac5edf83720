import os
from pathlib import Path

import pytest


@pytest.fixture
def esci_ads() -> Path:
    path = Path(os.environ.get("ESCI_ADS") or Path(__file__).parents[3].parent / "shared" / "esci_ads")
    if not path.is_dir():
        pytest.skip(f"the ESCI-ads data is not at {path}; set ESCI_ADS to its directory")
    return path
