"""Charts as SVG within a page: curves and bars, in the colours of the page, with titles where a pointer rests.

They take plain numbers, drop what is not finite, and are empty texts where nothing is left to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from partitioners.page import COLOURS, escaped, figure

WIDTH, HEIGHT = 380, 235  # of the drawing; the page scales it
TOP, BOTTOM, RIGHT = 24, 40, 14  # margins
CHARACTER = 7.0  # width of a digit, about
MOST_POINTS, MOST_HITS, MOST_MARKS = 600, 120, 40  # of a curve: drawn, with titles, and with marks
APART, MOST_APART = 5.0, 18.0  # pixels between curves that are drawn beside each other, and the most to either side
DASHES = ("", "6 3", "2 3", "9 3 2 3")
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One curve.

    band            (x, low, high) behind it
    colour, dashes  tell it from the others
    hollow          those of its points that are drawn as rings
    """

    label: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    colour: int = 0
    dashes: int = 0
    hollow: Collection[Point] = ()


@dataclass(frozen=True)
class Bar:
    """One bar of parts.   parts: (label, value, colour), from the left; mark: a value that is marked beside it"""

    label: str
    parts: Sequence[tuple[str, float, int]]
    mark: tuple[str, float] | None = None

    @property
    def total(self) -> float:
        return sum(value for _, value, _ in self.parts)


@dataclass(frozen=True)
class Axis:
    """A scale from values to places in the drawing, and its ticks."""

    low: float
    high: float
    log: bool
    start: float
    stop: float
    ticks: list[float] = field(default_factory=list)

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, stop: float, *, log: bool = False, whole: bool = False
    ) -> Axis:
        """whole   of integers, such as epochs"""
        low, high = min(values), max(values)
        if log:
            room = 0.0 if whole else 0.02 * (math.log10(high / low) or 1.0)
            return cls(math.log10(low) - room, math.log10(high) + room, True, start, stop, _log_ticks(low, high))
        if low == high:
            room = 0.5 if whole else abs(low) * 0.1
            low, high = low - room, high + (room or 1.0)
        ticks = _ticks(low, high, whole)
        if not whole:
            room = 0.04 * (high - low)
            low, high = min(low - room, ticks[0]), max(high + room, ticks[-1])
        return cls(low, high, False, start, stop, ticks)

    def at(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.stop - self.start)

    @property
    def labels(self) -> list[str]:
        if self.log or len(self.ticks) < 2:
            return [short(tick) for tick in self.ticks]
        step = min(b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False))
        most = max(map(abs, self.ticks))
        if most >= 1e6 or (most < 1e-3 and most > 0):
            return [short(tick) for tick in self.ticks]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{tick:,.{digits}f}".replace("-", "−") for tick in self.ticks]


def _ticks(low: float, high: float, whole: bool) -> list[float]:
    """Four to eight round values within [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 3 or factor == 1)
    if whole:
        step = max(1.0, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)] or [low]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 between them where they are few, else round values."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        return [10.0**i for i in range(first, last + 1, -(-(last - first) // 6))]
    fine = [factor * 10.0**i for i in range(first - 1, last + 1) for factor in (1, 2, 5)]
    inside = [tick for tick in fine if low * 0.999 <= tick <= high * 1.001]
    return inside if len(inside) > 2 or low == high else _ticks(low, high, False)


def short(value: float) -> str:
    """A number as it is read: ``1,200``, ``0.034``, ``2.5e-06``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:.4g}" if not 1e3 <= abs(value) < 1e7 else f"{value:,.0f}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def line_chart(
    title: str, series: Sequence[Series], *, x: str, y: str, log_x: bool = False, log_y: bool = False, note: str = "",
    whole_x: bool = False, ticks_x: Sequence[float] = (), apart: bool = False,
) -> str:  # fmt: skip
    """Curves over a common scale.   x, y: titles of the axes with their units

    whole_x  integers, as epochs
    ticks_x  in place of round numbers
    apart    curves are drawn a few pixels beside each other, so that points that coincide are all seen
    """
    kept = [(one, _usable(one.points, log_x, log_y)) for one in series]
    kept = [(one, points) for one, points in kept if points]
    if not kept:
        return ""
    bands = [[b for b in one.band if all(map(math.isfinite, b)) and (not log_y or b[1] > 0)] for one, _ in kept]
    ys = [v for _, points in kept for _, v in points] + [v for band in bands for _, *ends in band for v in ends]
    rows = Axis.over(ys, HEIGHT - BOTTOM, TOP, log=log_y)
    left = 10 + CHARACTER * max(map(len, rows.labels))
    room = min(APART * (len(kept) - 1) / 2, MOST_APART) if apart else 0.0
    xs = [v for _, points in kept for v, _ in points]
    columns = Axis.over(xs, left + room + 4 * apart, WIDTH - RIGHT - room, log=log_x, whole=whole_x or log_x)
    if ticks_x:
        columns = replace(columns, ticks=sorted(ticks_x))
    drawing = [*_grid(rows, columns, left, x, y)]
    for i, ((one, points), band) in enumerate(zip(kept, bands, strict=True)):
        shift = room * (2 * i / (len(kept) - 1) - 1) if room else 0.0
        moved = replace(columns, start=columns.start + shift, stop=columns.stop + shift)
        drawing += _curve(one, points, band, rows, moved, x, y, alone=len(kept) == 1)
    alt = f"{title}: {y} over {x}. " + "; ".join(
        f"{one.label or 'the curve'} from {short(points[0][1])} to {short(points[-1][1])}" for one, points in kept
    )
    return figure(_svg(drawing, HEIGHT, alt) + _legend([one for one, _ in kept]), title, note)


def _usable(points: Sequence[Point], log_x: bool, log_y: bool) -> list[Point]:
    return [
        (float(a), float(b))
        for a, b in points
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _grid(rows: Axis, columns: Axis, left: float, x: str, y: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    drawn = [f"<text class='axis' x='2' y='13'>{escaped(y)}</text>"]
    for tick, label in zip(rows.ticks, rows.labels, strict=True):
        at = rows.at(tick)
        drawn.append(f"<line class='gridline' x1='{left:.1f}' x2='{WIDTH - RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>")
        drawn.append(f"<text x='{left - 5:.1f}' y='{at + 4:.1f}' text-anchor='end'>{label}</text>")
    drawn.append(f"<line class='frame' x1='{left:.1f}' x2='{WIDTH - RIGHT}' y1='{bottom}' y2='{bottom}'/>")
    end = -math.inf
    for tick, label in zip(columns.ticks, columns.labels, strict=True):
        half = CHARACTER * len(label) / 2
        at = columns.at(tick)
        drawn.append(f"<line class='frame' x1='{at:.1f}' x2='{at:.1f}' y1='{bottom}' y2='{bottom + 4}'/>")
        middle = min(at, WIDTH - half)
        if middle - half > end + 6:  # no label over another
            drawn.append(f"<text x='{middle:.1f}' y='{bottom + 17}' text-anchor='middle'>{label}</text>")
            end = middle + half
    middle = (left + WIDTH - RIGHT) / 2
    drawn.append(f"<text class='axis' x='{middle:.1f}' y='{HEIGHT - 6}' text-anchor='middle'>{escaped(x)}</text>")
    return drawn


def _curve(
    one: Series, points: list[Point], band: Sequence[tuple[float, float, float]], rows: Axis, columns: Axis, x: str,
    y: str, *, alone: bool,
) -> list[str]:  # fmt: skip
    colour, drawn = f"var(--c{one.colour % COLOURS})", []
    if len(band) == 1:
        at, low, high = band[0]
        place = f"y1='{rows.at(low):.1f}' y2='{rows.at(high):.1f}'"
        drawn.append(
            f"<line x1='{columns.at(at):.1f}' x2='{columns.at(at):.1f}' {place} stroke='{colour}' stroke-width='2'/>"
        )
    elif band:
        ends = [(v, low) for v, low, _ in band] + [(v, high) for v, _, high in reversed(band)]
        drawn.append(f"<path d='{_path(ends, rows, columns)}Z' fill='{colour}' fill-opacity='.16'/>")
    dashes = f" stroke-dasharray='{DASHES[one.dashes % len(DASHES)]}'" if one.dashes else ""
    path = _path(_thinned(points, MOST_POINTS), rows, columns)
    drawn.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'{dashes} stroke-linejoin='round'/>")
    intervals = {v: (low, high) for v, low, high in band}
    marked = len(points) <= MOST_MARKS
    name = f"{one.label}, " if one.label and not alone else ""
    for a, b in _thinned(points, MOST_HITS):
        place = f"cx='{columns.at(a):.1f}' cy='{rows.at(b):.1f}'"
        if marked:
            inside = f"'var(--page)' stroke='{colour}' stroke-width='1.5'" if (a, b) in one.hollow else f"'{colour}'"
            drawn.append(f"<circle {place} r='3' fill={inside}/>")
        within = f" ({short(intervals[a][0])} to {short(intervals[a][1])})" if a in intervals else ""
        text = escaped(f"{name}{x} {short(a)}: {_exact(b)}{within}")
        drawn.append(f"<circle class='hit' {place} r='7'><title>{text}</title></circle>")
    return drawn


def _exact(value: float) -> str:
    return f"{value:.6g}".replace("-", "−", 1) if value < 0 else f"{value:.6g}"


def _path(points: Sequence[Point], rows: Axis, columns: Axis) -> str:
    return "M" + "L".join(f"{columns.at(a):.1f} {rows.at(b):.1f}" for a, b in points)


def _thinned(points: list[Point], most: int) -> list[Point]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[i * (len(points) - 1) // (most - 1)] for i in range(most)]


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2 and not (series and series[0].label):
        return ""
    items = "".join(
        f"<li><svg viewBox='0 0 28 10' aria-hidden='true'><line x1='0' x2='28' y1='5' y2='5' stroke-width='2.5' "
        f"stroke='var(--c{one.colour % COLOURS})' stroke-dasharray='{DASHES[one.dashes % len(DASHES)]}'/></svg>"
        f"{escaped(one.label)}</li>"
        for one in series
    )
    return f"<ul class='legend'>{items}</ul>"


def bar_chart(title: str, bars: Sequence[Bar], *, shown: Callable[[float], str] = short, note: str = "") -> str:
    """Bars from the left, each with its label and its total above it.   shown: a value with its unit"""
    drawable = [bar for bar in bars if math.isfinite(bar.total) and all(value >= 0 for _, value, _ in bar.parts)]
    most = max((max(bar.total, bar.mark[1] if bar.mark else 0) for bar in drawable), default=0)
    if not drawable or most <= 0:
        return ""
    drawing, row, scale = [], 38, (WIDTH - 4) / most
    for i, bar in enumerate(drawable):
        y, at = i * row, 2.0
        drawing.append(f"<text x='2' y='{y + 14}'>{escaped(bar.label)}</text>")
        marked = f"  ({bar.mark[0]} {shown(bar.mark[1])})" if bar.mark else ""
        total = escaped(f"{shown(bar.total)}{marked}")
        drawing.append(f"<text x='{WIDTH - 2}' y='{y + 14}' text-anchor='end'>{total}</text>")
        drawing.append(f"<rect x='2' y='{y + 19}' width='{WIDTH - 4}' height='13' fill='var(--grid)'/>")
        for label, value, colour in bar.parts:
            text = escaped(f"{bar.label}{f', {label}' if label else ''}: {shown(value)}")
            drawing.append(
                f"<rect x='{at:.1f}' y='{y + 19}' width='{value * scale:.2f}' height='13' "
                f"fill='var(--c{colour % COLOURS})'><title>{text}</title></rect>"
            )
            at += value * scale
        if bar.mark:
            place = 2 + bar.mark[1] * scale
            drawing.append(
                f"<line x1='{place:.1f}' x2='{place:.1f}' y1='{y + 16}' y2='{y + 35}' stroke='var(--text)' "
                "stroke-width='2'/>"
            )
    alt = f"{title}. " + "; ".join(f"{bar.label} {shown(bar.total)}" for bar in drawable)
    kinds = list(dict.fromkeys((label, colour) for bar in drawable for label, _, colour in bar.parts if label))
    legend = "".join(
        f"<li><svg viewBox='0 0 28 10' aria-hidden='true'><rect width='28' height='10' fill='var(--c{c % COLOURS})'/>"
        f"</svg>{escaped(label)}</li>"
        for label, c in kinds
    )
    below = f"<ul class='legend'>{legend}</ul>" if legend else ""
    return figure(_svg(drawing, row * len(drawable), alt) + below, title, note)


def _svg(drawing: Sequence[str], height: int, alt: str) -> str:
    inside = "\n".join(drawing)
    return f"<svg class='chart' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{escaped(alt)}'>{inside}</svg>"
