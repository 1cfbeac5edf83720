"""Lets ScaNN use AVX2.

Its wheels hold code for AVX2, but their test of what the processor can do was built without its own processor's case
and always says no (1.4.2: `port::TestCPUFeature` is two instructions that return false), so that they search by SSE4.
What the test found is a variable of the library, which is read at every search; here it is set to the truth. A tree
then answers about a third more queries a second (`tools/bench_index.py`), and what is built either way can be
searched either way.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_NEEDED = {"avx2", "fma"}  # ScaNN compiles with both
_SYMBOL = "_ZN14research_scann14flags_internal15should_use_avx2E"  # research_scann::flags_internal::should_use_avx2


@functools.cache
def use_avx2(library: str) -> bool:
    """Whether the loaded shared library of ScaNN at this path uses AVX2 from now on.

    It does not where the processor, or a library without that variable, cannot.
    """
    switch = avx2_switch(library)
    if switch is None:
        return False
    if processor_has_avx2():
        switch.value = True
    return switch.value


def avx2_switch(library: str) -> ctypes.c_bool | None:
    """The variable of the loaded library; setting its value sets the library's."""
    try:
        return ctypes.c_bool.in_dll(ctypes.CDLL(library), _SYMBOL)
    except (OSError, ValueError):
        return None


def processor_has_avx2() -> bool:
    return processor_flags(_CPUINFO) >= _NEEDED


def processor_flags(cpuinfo: Path) -> set[str]:
    """What Linux says that the first processor can do; empty where it does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
