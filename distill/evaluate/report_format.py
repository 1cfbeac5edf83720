"""How pages write numbers and commands; the templates' filters."""

from __future__ import annotations

import math
import shlex


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """`0.674`; large numbers without decimals; a real minus sign."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or (float(value).is_integer() and abs(value) > 1):
        digits = 0
    elif abs(value) >= 100:
        digits = 1
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"


def count(value: int) -> str:
    return f"{value:,}"


def p_value(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: float) -> str:
    """`12.4 s`, `5 min 12 s`, `2 h 5 min`."""
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: float) -> str:
    """Bytes in binary units: `512 B`, `1.5 KiB`, `48 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def signed(value: float, digits: int = 3) -> str:
    """A difference: `+0.010`, `−0.010`."""
    return number(value, digits, sign=True)


def shell_word(argument: str) -> str:
    """Quoted for a shell, and as a person would: `"--config.only=('student',)"`."""
    plain = "'" in argument and not set(argument) & set('"$`\\!')
    return f'"{argument}"' if plain else shlex.quote(argument)


FILTERS = {
    "number": number,
    "signed": signed,
    "percent": percent,
    "count": count,
    "p_value": p_value,
    "seconds": seconds,
    "size": size,
}
