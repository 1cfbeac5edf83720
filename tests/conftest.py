"""Tests run on eight fake CPU devices; XLA optimises little, because compiling is most of their time.

Drawn examples are the same on every run: what passes once passes on every machine.
"""

import os

from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
