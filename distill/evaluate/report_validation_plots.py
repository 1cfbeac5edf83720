"""The data page's figures: the way of each table's rows, and how what is left is distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import PercentFormatter

from distill.data.validation.distributions import Distribution
from distill.evaluate import plots
from distill.evaluate.report_format import count
from distill.evaluate.report_plots import Drawn, drawn
from distill.evaluate.report_validation import DataPage, Flow

_MOST = 12  # classes of a distribution that are drawn; the rest are put together
# what is drawn as one figure → its distributions
FIGURES = {
    "data_texts": ("title words", "keyphrase words", "item text tokens", "keyphrase tokens"),
    "data_catalogue": ("top category", "title language", "keyphrase language", "search volume"),
    "data_log": ("impressions of a pair", "clicks of a pair", "CTR of a pair"),
    "data_labels": (
        *("grades of training items", "grades of held-out items"),
        *("gains of valid queries", "gains of test queries", "search engine"),
    ),
}
_FATES = ("kept", "merged", "leaks", "impossible", "quarantined")
_NAMED = {"leaks": "removed as a leak", "impossible": "removed as impossible"}


def draw_data(page: DataPage | None) -> dict[str, Drawn]:
    """name → figure, for whatever there is data of."""
    if page is None:
        return {}
    found = {name: _distributions(name, names, page.distributions) for name, names in FIGURES.items()}
    found |= {"data_flow": _flow(page.flow), "data_position": _position(page.distributions)}
    return {name: one for name, one in found.items() if one is not None}


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _flow(flow: Sequence[Flow]) -> Drawn | None:
    read = [one for one in flow if one.rows]
    if not read:
        return None
    with matplotlib.rc_context(plots.STYLE):
        figure, (axis,) = plots.grid(1, columns=1, width=7.6, height=1.0 + 0.3 * len(read))
        places = np.arange(len(read))
        left = np.zeros(len(read))
        for fate, color in zip(_FATES, (0, 5, 3, 4, 1)):
            share = np.array([getattr(one, fate) / one.rows for one in read])
            label = _NAMED.get(fate, fate)
            axis.barh(places, share, left=left, height=0.65, color=plots.COLORS[color], label=label)
            left += share
        axis.set_yticks(places, [one.table for one in read])
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(axis="y", visible=False)
        figure.legend(fontsize=8, ncols=len(_FATES), loc="outside upper left")
        svg = plots.svg(figure, "data_flow", "What became of each table's rows")
    rows = [[one.table, *(_percent(getattr(one, fate), one.rows) for fate in _FATES)] for one in read]
    return drawn(svg, ["table", *(_NAMED.get(fate, fate) for fate in _FATES)], rows)


def _shown(one: Distribution) -> Distribution:
    """At most `_MOST` classes: the last ones are put together."""
    if len(one) <= _MOST:
        return one
    labels = list(one)
    rest = sum(one[label] for label in labels[_MOST - 1 :])
    return {label: one[label] for label in labels[: _MOST - 1]} | {f"{len(labels) - _MOST + 1} more": rest}


def _distributions(name: str, names: Sequence[str], every: Mapping[str, Distribution]) -> Drawn | None:
    shown = {one: _shown(every[one]) for one in names if sum(every.get(one, {}).values())}
    if not shown:
        return None
    with matplotlib.rc_context(plots.STYLE):
        tallest = max(len(one) for one in shown.values())
        columns = 3 if len(shown) == 3 else 2
        figure, axes = plots.grid(len(shown), columns, width=9.4 / columns, height=0.8 + 0.19 * tallest)
        for number, (axis, (title, one)) in enumerate(zip(axes, shown.items())):
            total = sum(one.values())
            places = np.arange(len(one))
            shares = np.array(list(one.values())) / total
            axis.barh(places, shares, height=0.7, color=plots.COLORS[number % len(plots.COLORS)])
            axis.set_yticks(places, [_short(label) for label in one])
            axis.set_ylim(max(len(one), 3) - 0.4, -0.6)
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.grid(axis="y", visible=False)
            axis.set_title(f"{title} ({count(total)})", loc="left")
        svg = plots.svg(figure, name, "Distributions: " + ", ".join(shown))
    rows = [
        [title, label, count(number), _percent(number, sum(one.values()))]
        for title, one in shown.items()
        for label, number in one.items()
    ]
    return drawn(svg, ["of", "class", "number", "share"], rows)


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"


def _position(every: Mapping[str, Distribution]) -> Drawn | None:
    shown, clicked = every.get("impressions by position", {}), every.get("clicks by position", {})
    labels = [label for label, number in shown.items() if number and label != "unknown"]
    if not labels:
        return None
    impressions, clicks = (np.array([one.get(label, 0) for label in labels], float) for one in (shown, clicked))
    rate = clicks / impressions
    with matplotlib.rc_context(plots.STYLE):
        figure, (left, right) = plots.grid(2, columns=2, width=4.6, height=2.6)
        places = np.arange(len(labels))
        left.plot(places, rate, color=plots.COLORS[0], marker="o", markersize=4, linewidth=1.4)
        left.set_ylim(0, 1.15 * max(rate.max(), 1e-6))
        left.yaxis.set_major_formatter(PercentFormatter(1.0))
        left.set_title("clicks ÷ impressions", loc="left")
        right.bar(places, impressions / impressions.sum(), color=plots.COLORS[1])
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.set_title("share of impressions", loc="left")
        for axis in (left, right):
            axis.set_xticks(places, labels, rotation=60)
            axis.set_xlabel("mean position of the pair")
        svg = plots.svg(figure, "data_position", "Click rate and impressions by position")
    rows = [[label, count(int(n)), count(int(k)), _percent(k, n)] for label, n, k in zip(labels, impressions, clicks)]
    return drawn(svg, ["position", "impressions", "clicks", "rate"], rows)
