"""Makes the page's outline of the world from the 1:50m countries of Natural Earth.

    npm pack world-atlas@2.0.2 && tar xf world-atlas-2.0.2.tgz
    python -m scripts.world_outline package/countries-50m.json OUT/world.svg   # OUT: server/web

The coordinates are those of Web Mercator, so that a rectangle of the map is one of latitudes and
longitudes. The outline is simplified by Visvalingam's method until the file is small enough.
"""

import heapq
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = 8192
"""Units of the map's sides: 0.04 degrees of longitude each."""
MAX_BYTES = 60_000
NORTHERNMOST = 85.0
SOUTHERNMOST = -89.0
"""The ring of Antarctica goes along the pole from one side of the map to the other."""
ISLAND = 0.25
"""Of the threshold: smaller islands are left out."""
Point = tuple[float, float]
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">
<desc>Made with Natural Earth (public domain), 1:50m, as packaged in world-atlas 2.0.2 (ISC)</desc>
"""


def main(source: str, target: str) -> None:
    """Write the finest outline that fits into `MAX_BYTES`."""
    world = json.loads(Path(source).read_text())
    low, high = 0.0, 1.0
    for _ in range(18):  # bisection
        middle = (low + high) / 2
        if len(draw(world, middle).encode()) > MAX_BYTES:
            low = middle
        else:
            high = middle
    Path(target).write_text(draw(world, high), encoding="utf-8", newline="\n")
    print(f"{target}: simplified to {high:.4f} square degrees")


def draw(world: dict[str, Any], threshold: float) -> str:
    """Return the SVG: a path of the land, and one of the borders of countries."""
    arcs = [simplify(arc, threshold) for arc in read_arcs(world)]
    rings = (stitch(arcs, ring) for ring in rings_of(world["objects"]["land"]))
    large = (ring for ring in rings if area_of(ring) > ISLAND * threshold)
    land = "".join(path(part, is_closed=True) for ring in large for part in split(ring))
    uses = Counter(
        index if index >= 0 else ~index
        for ring in rings_of(world["objects"]["countries"])
        for index in ring
    )
    borders = "".join(path(arcs[index]) for index, count in uses.items() if count > 1)
    return f'{HEAD}<path id="land" d="{land}"/>\n<path id="borders" d="{borders}"/>\n</svg>\n'


def read_arcs(world: dict[str, Any]) -> list[list[Point]]:
    """Return a TopoJSON's arcs as degrees east and north."""
    (scale_x, scale_y), (left, bottom) = (
        world["transform"]["scale"],
        world["transform"]["translate"],
    )
    arcs = []
    for steps in world["arcs"]:
        x = y = 0
        arc = []
        for by_x, by_y in steps:
            x, y = x + by_x, y + by_y
            arc.append((x * scale_x + left, y * scale_y + bottom))
        arcs.append(arc)
    return arcs


def rings_of(geometry: dict[str, Any]) -> Iterator[list[int]]:
    """Yield the rings of a TopoJSON geometry as numbers of arcs."""
    for part in geometry.get("geometries", ()):
        yield from rings_of(part)
    if geometry["type"] == "Polygon":
        yield from geometry["arcs"]
    elif geometry["type"] == "MultiPolygon":
        for polygon in geometry["arcs"]:
            yield from polygon


def stitch(arcs: list[list[Point]], ring: list[int]) -> list[Point]:
    """Return the points of a ring; a negative number ~n stands for arc n backwards."""
    points: list[Point] = []
    for index in ring:
        arc = arcs[index] if index >= 0 else arcs[~index][::-1]
        points += arc[1:] if points else arc
    return points


def simplify(arc: list[Point], threshold: float) -> list[Point]:
    """Leave out points whose triangle with their neighbors is smaller, the smallest first."""
    before, after = list(range(-1, len(arc) - 1)), list(range(1, len(arc) + 1))

    def size(at: int) -> float:
        return triangle(arc[before[at]], arc[at], arc[after[at]])

    is_ring = arc[0] == arc[-1]
    number = len(arc)
    waiting = [(size(at), at) for at in range(1, len(arc) - 1)]
    heapq.heapify(waiting)
    current = {at: area for area, at in waiting}
    while waiting and waiting[0][0] < threshold and number > (4 if is_ring else 2):
        area, at = heapq.heappop(waiting)
        if current.get(at) != area:
            continue  # an older entry
        del current[at]
        number -= 1
        left, right = before[at], after[at]
        after[left], before[right] = right, left
        for other in (left, right):
            if other in current:
                current[other] = max(area, size(other))
                heapq.heappush(waiting, (current[other], other))
    return [arc[0], *(arc[at] for at in sorted(current)), arc[-1]]


def triangle(a: Point, b: Point, c: Point) -> float:
    """Return an area in square degrees as they are at the equator."""
    area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
    return area * math.cos(math.radians(b[1]))


def split(ring: list[Point]) -> Iterator[list[Point]]:
    """Yield the parts of a ring on either side of the 180th meridian."""
    unwrapped, turns = ring[:1], 0
    for (x, _), (next_x, next_y) in itertools.pairwise(ring):
        if abs(next_x - x) > 180 and next_y > SOUTHERNMOST:
            turns += 1 if next_x < x else -1
        unwrapped.append((next_x + 360 * turns, next_y))
    for shift in (-360, 0, 360):
        moved = [(x + shift, y) for x, y in unwrapped]
        part = clip(clip(moved, -180, 1), 180, -1)
        if len(part) > 2:
            yield [*part, part[0]]


def clip(ring: list[Point], edge: float, side: int) -> list[Point]:
    """Return the part of a ring to the right (1) or the left (-1) of a meridian."""
    kept: list[Point] = []
    for (x, y), (next_x, next_y) in itertools.pairwise([*ring[-1:], *ring]):
        if ((x - edge) * side < 0) != ((next_x - edge) * side < 0):
            kept.append((edge, y + (next_y - y) * (edge - x) / (next_x - x)))
        if (next_x - edge) * side >= 0:
            kept.append((next_x, next_y))
    return kept


def area_of(ring: list[Point]) -> float:
    """Return an area in square degrees as they are at the equator."""
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
    return abs(doubled) / 2 * math.cos(math.radians(ring[0][1]))


def project(point: Point) -> tuple[int, int]:
    """Return units from the upper left corner of the map."""
    latitude = math.radians(max(-NORTHERNMOST, min(NORTHERNMOST, point[1])))
    y = math.log(math.tan(math.pi / 4 + latitude / 2)) / (2 * math.pi)
    return round((point[0] / 360 + 0.5) * SIZE), round((0.5 - y) * SIZE)


def path(points: list[Point], *, is_closed: bool = False) -> str:
    """Return the commands of an SVG path with relative lines."""
    (x, y), *others = map(project, points)
    written = f"M{x} {y}l"
    for next_x, next_y in others:
        if (next_x, next_y) != (x, y):
            for number in (next_x - x, next_y - y):
                written += f"{'' if number < 0 or written.endswith('l') else ' '}{number}"
            x, y = next_x, next_y
    return written.removesuffix("l") + ("z" if is_closed else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
