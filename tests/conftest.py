"""Tests run on eight fake CPU devices; XLA optimises little, because compiling is most of their time.

What one test, worker or started process has compiled the others read from `.compiled/`, and so does the next run.

Drawn examples are the same on every run: what passes once passes on every machine.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture
def esci_ads() -> Path:
    path = Path(os.environ.get("ESCI_ADS") or Path(__file__).parents[1].parent / "shared" / "esci_ads")
    if not path.is_dir():
        pytest.skip(f"the ESCI-ads data is not at {path}; set ESCI_ADS to its directory")
    return path
