"""The figures of a comparison, defined once for the page, for SVG and for PNG: specifications of Vega-Lite."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..types import ConfigError
from .curves import AXES, Axis, Points, accuracy, band, over_steps
from .groups import Comparison, Group
from .report import group_ledger

VEGA_LITE = "6.4"  # the version that draws
# The first six are those of Okabe and Ito, which colour-blind readers tell apart.
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999933"]
SHADES = [*PALETTE, "#882255", "#44aa99", "#ddcc77", "#6699cc", "#aa4466", "#888888"]  # of the parts of a bar
STROKES = {"symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2}  # in a legend of lines
DASHES = [[1, 0], [8, 4], [3, 3], [10, 3, 3, 3]]
WIDTH, HEIGHT, BAR = 420, 260, 30  # pixels, in print; a page gives the width
LINE = 330  # pixels that a line of a legend may take, so that it fits a telephone

Spec = dict[str, Any]
# Metrics of learner steps that are drawn, each with a name, a title and a unit; asynchronous runs alone have the last.
BY_STEP = [
    ("staleness_mean", "staleness", "staleness of what is trained on", "staleness (learner steps)"),
    ("behaviour/effective_sample_size", "sample-size", "effective sample size of a batch", "effective share"),
    ("survivorship/length", "survivorship", "length of what is trained on, against all that was sampled", "ratio"),
]


class Figure(NamedTuple):
    """A drawing that answers one thing."""

    name: str  # a file's, without its ending
    title: str
    spec: Spec  # of Vega-Lite, without size and colours of paper and ink


def figures(comparison: Comparison, level: float) -> list[Figure]:
    """All figures of a comparison; one that has nothing to show is left out."""
    drawn = [accuracy_figure(comparison.groups, name, axis, level) for name, axis in AXES.items()]
    drawn += [memory_figure(comparison.groups), time_figure(comparison.groups), fates_figure(comparison.groups)]
    drawn += [steps_figure(comparison.groups, level, *about) for about in BY_STEP]
    return [figure for figure in drawn if figure]


def accuracy_figure(groups: Sequence[Group], name: str, axis: Axis, level: float) -> Figure | None:
    title, up = f"accuracy against {axis.word}", "held-out accuracy (%)"
    return bands(f"accuracy-{name}", title, groups, lambda run: accuracy(run, axis), axis.title, up, level)


def steps_figure(groups: Sequence[Group], level: float, metric: str, name: str, title: str, unit: str) -> Figure | None:
    return bands(name, title, groups, lambda run: over_steps(run, metric), "learner steps (number)", unit, level)


def bands(
    name: str, title: str, groups: Sequence[Group], points: Callable[..., Points], x: str, y: str, level: float
) -> Figure | None:
    """A line a group, the mean over its seeds, in the interval of that mean."""
    rows: list[Spec] = []
    for group in groups:
        if drawn := band([points(run) for run in group.runs], level):
            for at, mean, low, high in zip(*(values.tolist() for values in drawn)):
                rows.append({"x": at, "mean": mean, "low": low, "high": high, "group": group.label})
    if not rows:
        return None
    across = {"field": "x", "type": "quantitative", "title": x, "axis": {"format": "~s"}, "scale": {"zero": False}}
    up = {"type": "quantitative", "title": y, "scale": {"zero": False}}
    tooltip = [
        {"field": "group", "title": "algorithm"},
        {"field": "x", "title": x, "format": ".4~s"},
        *({"field": field, "title": f"{field}, {y}", "format": ".3~f"} for field in ("mean", "low", "high")),
    ]
    labels = [group.label for group in groups]
    layers = [
        {
            "mark": {"type": "area", "opacity": 0.2},
            "encoding": {"y": up | {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {"y": up | {"field": "mean"}, "strokeDash": dashes(labels), "tooltip": tooltip},
        },
    ]
    hue = colour("group", labels, PALETTE)
    shared = {"x": across, "color": hue | {"legend": hue["legend"] | STROKES}}
    return Figure(name, title, {"data": {"values": rows}, "height": HEIGHT, "encoding": shared, "layer": layers})


def memory_figure(groups: Sequence[Group]) -> Figure | None:
    networks = dict.fromkeys(
        name for group in groups for run in group.runs for name in run.ledger["memory"]["components"]
    )

    def parts(group: Group) -> Iterable[tuple[str, float]]:
        memory = group_ledger(group)["memory"]
        for name in networks:
            yield name, sum(memory["components"].get(name, {}).values()) / 1e6
        yield "key-value cache", memory["kv_cache"] / 1e6
        yield "rollouts and scores", memory["rollout_buffers"] / 1e6
        yield "largest temporaries", max(memory["temporaries"].values(), default=0) / 1e6

    return bars("memory", "memory by component, not all at once", groups, parts, "memory of a device (MB)")


def time_figure(groups: Sequence[Group]) -> Figure | None:
    return bars(
        "time",
        "time by part",
        groups,
        lambda group: group_ledger(group)["time"]["devices"].items(),
        "wall time of the devices (s)",
    )


def fates_figure(groups: Sequence[Group]) -> Figure | None:
    def parts(group: Group) -> Iterable[tuple[str, float]]:
        rollouts = group_ledger(group)["rollouts"]
        for fate, count in rollouts["by_fate"].items():
            yield fate, 100 * count / max(rollouts["generated"], 1)

    return bars("fates", "fates of rollouts", groups, parts, "part of all rollouts (%)")


def bars(
    name: str, title: str, groups: Sequence[Group], parts: Callable[[Group], Iterable[tuple[str, float]]], x: str
) -> Figure | None:
    """A stacked bar a group; a part that is nothing for all is left out."""
    rows: list[Spec] = [
        {"group": group.label, "part": part, "value": value} for group in groups for part, value in parts(group)
    ]
    some = {row["part"] for row in rows if row["value"]}
    order = [part for part in dict.fromkeys(row["part"] for row in rows) if part in some]
    rows = [row | {"order": order.index(row["part"])} for row in rows if row["value"]]
    if not rows:
        return None
    encoding = {
        "x": {"field": "value", "type": "quantitative", "stack": "zero", "title": x, "axis": {"format": "~s"}},
        "y": {"field": "group", "type": "nominal", "title": "algorithm", "sort": None, "axis": {"labelLimit": 120}},
        "color": colour("part", order, SHADES),
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [
            {"field": "group", "title": "algorithm"},
            {"field": "part", "title": "part"},
            {"field": "value", "title": x, "format": ".4~s"},
        ],
    }
    return Figure(
        name, title, {"data": {"values": rows}, "height": BAR * len(groups), "mark": "bar", "encoding": encoding}
    )


def colour(field: str, names: Sequence[str], palette: Sequence[str]) -> Spec:
    """A colour a name, in their order."""
    scale = {"domain": list(names), "range": [palette[index % len(palette)] for index in range(len(names))]}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend(names)}


def legend(names: Sequence[str]) -> Spec:
    """Below the figure, and no wider than a telephone."""
    columns = max(1, LINE // (7 * max(map(len, names)) + 40))
    return {"orient": "bottom", "title": None, "columns": columns, "labelLimit": LINE - 40}


def dashes(names: Sequence[str]) -> Spec:
    """A dash a name, so that lines on top of each other are both seen, in grey too."""
    scale = {"domain": list(names), "range": [DASHES[index % len(DASHES)] for index in range(len(names))]}
    return {"field": "group", "type": "nominal", "scale": scale, "legend": legend(names) | STROKES}


def theme(ink: str, line: str) -> Spec:
    """Vega-Lite's config for text and lines of these colours, on whatever is behind."""
    axis: Spec = {"labelColor": ink, "titleColor": ink, "gridColor": line, "domainColor": line, "tickColor": line}
    axis |= {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelOverlap": "greedy"}
    key: Spec = {"labelColor": ink, "labelFontSize": 12, "symbolType": "square", "symbolOpacity": 1}
    return {"background": None, "font": "sans-serif", "axis": axis, "legend": key, "view": {"stroke": None}}


PAPER = theme("#222222", "#dddddd") | {"background": "white"}


def svg(figure: Figure) -> str:
    """The figure for print."""
    return drawer().vegalite_to_svg(figure.spec | {"width": WIDTH}, vl_version=VEGA_LITE, config=PAPER)


def png(figure: Figure) -> bytes:
    """The figure for print, 1,260 pixels wide or a little more: 300 an inch, on a column of 10 cm."""
    return drawer().vegalite_to_png(figure.spec | {"width": WIDTH}, vl_version=VEGA_LITE, config=PAPER, scale=3)


def javascript() -> str:
    """The script that draws the figures in a browser: Vega, Vega-Lite and Vega-Embed in one script."""
    return drawer().javascript_bundle(vl_version=VEGA_LITE)


def drawer() -> Any:
    """The module that draws.

    Raises:
      ConfigError: it isn't installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise ConfigError("formats", "html, png or svg", "need vl-convert: pip install 'rlbench[compare]'") from None
    return vl_convert
