"""What the page is made of: numbers, inert text, tables, and SVG to which the page gives the colours. Pure."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeGuard

from pawl.parts import Value

NONE = "–"
LARGEST = 1e300  # so that the difference of two numbers is one
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
WIDTH, STEP = 360, 38  # of a picture, and of a row in one


def known(value: float | None) -> TypeGuard[float]:
    """Say whether a number can be shown."""
    return value is not None and math.isfinite(value) and abs(value) <= LARGEST


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a number with as many digits as its interval supports: two of the half width."""
    if value is None or not math.isfinite(value):
        return "n/a"
    half, size = (high / 2 - low / 2 if low is not None and high is not None else 0.0), abs(value)
    if 0 < half < math.inf and size < 1e15:
        found = f"{size:,.{min(max(1 - math.floor(math.log10(half)), 0), 8)}f}"
    else:
        found = f"{size:,.0f}" if size < 1e15 and size == round(size) else f"{size:.4g}"
    return f"{'−' * (value < 0)}{found}"


def plain(said: str) -> str:
    """Return text on one line, without what cannot be printed."""
    return "".join(" " if each.isspace() else each for each in said if each.isprintable() or each.isspace()).strip()


def esc(said: object, most: int = 600) -> str:
    """Return text that nobody has checked as inert HTML. Control characters, and those that turn the direction, are gone."""
    line = plain(str(said))
    return html.escape(line if len(line) <= most else line[: most - 1] + "…")


def folded(title: str, content: str) -> str:
    """Return what is one click away."""
    return f"<details><summary>{title}</summary>{content}</details>"


def table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """Return a table in a box that scrolls. rows: HTML; a column that says nothing is left out.

    kinds: the classes of the columns, of which `name` names its row (the first does without); with them a row is a card where there is little room.
    """
    columns, name = list(zip(*rows, strict=True)) or [()] * len(head), kinds.index("name") if kinds else 0
    classes = kinds or ["num" if place != name and _numeric(column) else "" for place, column in enumerate(columns)]
    columns = [_aligned(each) if kind.startswith("num") else each for each, kind in zip(columns, classes, strict=True)]
    there = [place for place, column in enumerate(columns) if place == name or {*column} - {NONE, ""}]

    def cell(place: int, said: str) -> str:
        if place == name:
            return f'<th scope="row">{said}</th>'
        kind = f"{classes[place]}{' empty' * (said in {NONE, ''})}"
        shown = f' data-label="{head[place]}"><span>{said}</span>' if kinds else f">{said}"
        return f'<td class="{kind}"{shown}</td>'

    top = "".join(f'<th scope="col" class="{classes[place]}">{head[place]}</th>' for place in there)
    lines = [f"<tr>{''.join(cell(place, row[place]) for place in there)}</tr>" for row in zip(*columns, strict=True)]
    kind = "cards" if kinds else ""
    drawn = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="box" role="region" aria-label="{esc(label)}" tabindex="0">{drawn}</div>'


def _numeric(column: Iterable[str]) -> bool:
    return all(cell[:1] in "0123456789+−–" or cell == "n/a" for cell in column)


def _aligned(column: Sequence[str]) -> Sequence[str]:
    """Return the numbers of a column padded to stand on their decimal point, by spaces as wide as a digit."""
    after = [len(cell.partition(".")[2]) if cell.replace(",", "").replace(".", "").isdigit() else 0 for cell in column]
    return [cell + "\u2007" * (max(after) - size) * (size > 0) for cell, size in zip(column, after, strict=True)]


class Row(NamedTuple):
    """A row of a picture: a verdict's symbol, its name, what stands below and at the right, and {model: value with interval}."""

    symbol: str
    name: str
    below: str
    values: Mapping[str, Value]
    right: str = ""


class Frame(NamedTuple):
    """The ranges that a picture shows, and where."""

    x: tuple[float, float]
    y: tuple[float, float] = (0, 1)
    left: float = 46
    right: float = 350
    top: float = 26
    bottom: float = 222

    def at(self, x: float, y: float = 0) -> tuple[float, float]:
        """Return the place of a point; what is outside lies on the edge."""
        ranges = ((x, self.x), (y, self.y))
        across, up = (min(max((value - low) / (high - low), 0), 1) for value, (low, high) in ranges)
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def line(self, points: Iterable[Sequence[float]], kind: str = "line") -> str:
        """Return a line through points; of each, the first two numbers count."""
        places = (self.at(*point[:2]) for point in points)
        return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'

    def upright(self, x: float, kind: str) -> str:
        """Return a line from bottom to top."""
        return self.line([(x, self.y[0]), (x, self.y[1])], kind)

    def axes(self, x: str, y: str = "") -> str:
        """Return ticks and names: lines across for y, or upright ones if it has no numbers."""
        parts = [text(self.right, self.bottom + 32, x, "axis end"), text(self.left, self.top - 12, y, "axis")]
        for tick in ticks(*self.x):
            parts.append(text(self.at(tick)[0], self.bottom + 15, short(tick), "axis middle"))
            parts.append("" if y else self.upright(tick, "grid"))
        for tick in ticks(*self.y) if y else ():
            parts.append(self.line([(self.x[0], tick), (self.x[1], tick)], "grid"))
            parts.append(text(self.left - 6, self.at(self.x[0], tick)[1] + 4, short(tick), "axis end"))
        return "".join(parts)


def text(x: float, y: float, said: str, kind: str = "", most: int = 60) -> str:
    """Return text in a picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{esc(said, most)}</text>' if said else ""


def group(kind: str, *parts: str) -> str:
    """Return parts in the colours of a model or a verdict."""
    return f'<g class="{kind}">{"".join(parts)}</g>'


def dot(x: float, y: float, radius: float) -> str:
    """Return a point."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def short(value: float) -> str:
    """Return the number at a tick: 250k, for there is little room."""
    unit, name = next((each for each in UNITS if each[0] <= abs(value) / 10 < 1e14), (1, ""))
    return f"{value / unit:.6g}{name}".replace("-", "−") if value else "0"


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that holds the values, with a little room; never an empty one."""
    low, high = min(found := list(values)), max(found)
    room = (high - low) / 20
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-280):
        room = abs(low) / 10 if abs(low) > 1e-280 else 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers in a range, two to six."""
    size = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(size * many for many in (1, 2, 5, 10) if size * many >= (high - low) / 5.001)
    first = math.ceil(low / step)
    return [(first + each) * step for each in range(7) if (first + each) * step <= high]


def names(places: Iterable[tuple[float, float, str]], kind: str, frame: Frame) -> str:
    """Return the names of lines beside them, 14 units apart or more, inside the frame."""
    placed: list[tuple[float, float, str]] = []
    for x, y, name in sorted(places, key=lambda place: place[1]):
        placed.append((x, max(y, placed[-1][1] + 14 if placed else frame.top + 8), name))
    back = max(placed[-1][1] - frame.bottom + 4, 0) if placed else 0
    return "".join(group(name, text(x, y - back, name, kind)) for x, y, name in placed)


def strips(rows: Sequence[Row], frame: Frame, x: str, marks: Mapping[float, str]) -> tuple[str, float]:
    """Return a picture with a row per thing, its values one above the other, and its height. marks: {x: name of an upright line}."""
    frame = frame._replace(top=24, bottom=24 + STEP * len(rows))
    parts = [frame.axes(x)]
    for mark, name in marks.items():
        parts += [frame.upright(mark, name or "even"), text(frame.at(mark)[0], frame.top - 6, name, "axis end")]
    for place, row in enumerate(rows):
        y = frame.top + STEP * place + 19
        parts += [text(0, y - 1, f"{row.symbol} {row.name}".strip(), "", 19), text(0, y + 13, row.below, "axis")]
        parts.append(text(WIDTH, y + 4, row.right, "axis end"))
        shown = [(who, each, each.value) for who, each in row.values.items() if known(each.value)]
        for number_, (who, each, value) in enumerate(shown):
            level = y + 10 * number_ - 5 * (len(shown) - 1)
            low, middle, high = (frame.at(end if known(end) else value)[0] for end in (each.low, value, each.high))
            inside = min(max(middle, frame.left + 28), frame.right - 28)
            named = place == 0 and who in {"candidate", "baseline"}  # where they are seen first
            name = text(inside, level + (17 if number_ else -9), who, "middle") if named else ""
            bar = f'<path class="range" d="M{low:.1f} {level:.1f}H{high:.1f}"/>'
            parts.append(group(who, bar, dot(middle, level, 4), name))
    return "".join(parts), frame.bottom + 40
