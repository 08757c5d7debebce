"""Fits how a figure grows with the size of a cluster, and draws it with gnuplot."""

import math
import subprocess
from pathlib import Path

# Exponents that are tried: constant to quadratic.
EXPONENTS = [step / 20 for step in range(1, 41)]
# Largest exponent that n log n has between 100 and 10,000: log(200) / log(100).
MAX_EXPONENT = 1.15


def fit(points, floor):
    """Returns (a, b, k) of the curve a + b * n^k with the smallest sum of squared relative errors.

    `points` are pairs of size and figure. A figure that differs by less than `floor`, or by less than a
    quarter of its mean, is constant: k is 0, and a is the mean.
    """
    values = [value for _, value in points]
    mean = sum(values) / len(values)
    if len(points) < 3 or max(values) - min(values) < max(floor, mean / 4) or values[-1] <= values[0]:
        return mean, 0.0, 0.0
    return min((solve(points, exponent, floor) for exponent in EXPONENTS), key=lambda curve: error(points, curve, floor))


def weight(value, floor):
    return 1 / max(value, floor) ** 2


def solve(points, exponent, floor):
    """Returns a and b that fit best for this exponent, neither of them negative, and the exponent."""
    rows = [(size**exponent, value, weight(value, floor)) for size, value in points]
    total = sum(w for _, _, w in rows)
    x = sum(w * x for x, _, w in rows) / total
    y = sum(w * y for _, y, w in rows) / total
    spread = sum(w * (own - x) ** 2 for own, _, w in rows)
    b = max(0.0, sum(w * (own - x) * (value - y) for own, value, w in rows) / spread)
    a = y - b * x
    if a < 0:
        a, b = 0.0, sum(w * own * value for own, value, w in rows) / sum(w * own * own for own, _, w in rows)
    return a, b, exponent


def error(points, curve, floor):
    return sum(weight(value, floor) * (at(curve, size) - value) ** 2 for size, value in points)


def at(curve, size):
    a, b, exponent = curve
    return a + b * size**exponent


def per_object(curve, size):
    """Returns the cost of one more object at this size."""
    return at(curve, size + 1) - at(curve, size)


def draw(path, title, unit, series):
    """Draws a chart with logarithmic axes to an SVG file: `series` are a name, its points and its curve."""
    commands = [
        "set terminal svg size 640,360 font 'sans,11' background '#ffffff'",
        f"set output '{path}'",
        "set logscale xy",
        "set key outside right top",
        "set grid",
        f"set title '{title}'",
        "set xlabel 'number'",
        f"set ylabel '{unit}'",
    ]
    plots = []
    for index, (name, points, curve) in enumerate(series, 1):
        rows = "\n".join(f"{size} {max(value, 1e-3)}" for size, value in points)
        commands.append(f"$points{index} << EOD\n{rows}\nEOD")
        plots.append(f"$points{index} with points pt 7 ps 0.6 lc {index} title '{name}'")
        a, b, exponent = curve
        plots.append(f"[{points[0][0]}:{points[-1][0]}] {a} + {b} * x**{exponent} with lines lc {index} notitle")
    commands.append("plot " + ", ".join(plots))
    subprocess.run(["gnuplot"], input="\n".join(commands), text=True, check=True)
    # Gnuplot writes trailing blanks, which git reports.
    svg = Path(path)
    svg.write_text("\n".join(line.rstrip() for line in svg.read_text(encoding="utf-8").splitlines()) + "\n", encoding="utf-8")


def describe(curve):
    """Returns the growth in words, such as "constant" or "n^0.95"."""
    exponent = curve[2]
    return "constant" if exponent == 0 else "linear" if math.isclose(exponent, 1.0, abs_tol=0.06) else f"n^{exponent:.2f}"
