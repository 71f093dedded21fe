"""From the measurements of scripts/bench.sh to tables and a chart.

Usage: report.py MEASUREMENTS [--document FILE --chart FILE --name NAME --about TEXT]

MEASUREMENTS has lines ROUND FILESYSTEM ROW VALUE, the value a number or "failed". The tables go to standard output; with --document they also replace what stands
between the marks of NAME in FILE, so that what people write around them stays.
"""

import argparse
import os
import statistics
import sys
from math import log10

from load import ROWS

TITLES = {
    "native": "native",
    "passthrough": "passthrough_hp (no crypto)",
    "sero": "**sero**",
    "gocryptfs": "gocryptfs",
    "securefs": "securefs",
    "encfs": "EncFS",
    "cryfs": "CryFS",
}
PEERS = ("gocryptfs", "securefs", "encfs", "cryfs")
COLOURS = {
    "native": "#b0b0b0", "passthrough": "#7a7a7a", "sero": "#d62728", "gocryptfs": "#1f77b4", "securefs": "#2ca02c",
    "encfs": "#9467bd", "cryfs": "#ff7f0e",
}


def read(path):
    """filesystem -> row -> values, one a round"""
    values = {}
    with open(path) as file:
        for line in file:
            _, filesystem, row, value = line.split()
            # One that failed in every round has no values, but a line.
            known = values.setdefault(filesystem, {}).setdefault(row, [])
            if value != "failed":
                known.append(float(value))
    return values


def shown(number):
    if number >= 10000:
        return f"{number / 1000:.1f}k"
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def cell(values):
    if values is None:
        return "-"
    if not values:
        return "failed"
    median = statistics.median(values)
    if len(values) == 1:
        return shown(median)
    spread = (max(values) - min(values)) / 2 / median * 100 if median else 0
    return f"{shown(median)} ±{spread:.0f}%"


def tables(values):
    filesystems = [name for name in TITLES if name in values]
    rows = [row for row in ROWS if any(row in values[name] for name in filesystems)]
    lines = ["| row | " + " | ".join(TITLES[name] for name in filesystems) + " |", "|---" * (len(filesystems) + 1) + "|"]
    for row in rows:
        _, what, unit, _ = ROWS[row]
        lines.append(f"| {what}, {unit} | " + " | ".join(cell(values[name].get(row)) for name in filesystems) + " |")
    if "sero" in values and len(filesystems) > 1:
        lines += ["", "How many times as fast as the others sero is (above 1: faster):", "",
                  "| row | the best encrypted peer | that is | passthrough_hp | native |", "|---|---|---|---|---|"]
        for row in rows:
            if not values["sero"].get(row) or row == "memory":
                continue
            peers = {name: advantage(values, row, name) for name in PEERS if values.get(name, {}).get(row)}
            best = min(peers, key=peers.get) if peers else None
            others = [advantage(values, row, name) for name in ("passthrough", "native")]
            lines.append(
                f"| {ROWS[row][1]} | {ratio(peers.get(best))} | {TITLES.get(best, '-')} | "
                + " | ".join(ratio(other) for other in others) + " |"
            )
    return "\n".join(lines) + "\n"


def advantage(values, row, other):
    """sero's speed by another's."""
    if not values.get(other, {}).get(row):
        return None
    ours, theirs = statistics.median(values["sero"][row]), statistics.median(values[other][row])
    return ours / theirs if ROWS[row][3] else theirs / ours


def ratio(value):
    return "-" if value is None else f"{value:.2f}"


def chart(values, about):
    """Each row a line, each filesystem a dot: its speed by that of the best encrypted peer, on a logarithmic scale."""
    filesystems = [name for name in TITLES if name in values]
    rows = []
    for row in ROWS:
        speeds = {
            name: (lambda median: median if ROWS[row][3] else 1 / median)(statistics.median(values[name][row]))
            for name in filesystems
            if values[name].get(row) and statistics.median(values[name][row]) > 0
        }
        best = max((speeds[name] for name in PEERS if name in speeds), default=None)
        if best and row != "memory":
            rows.append((ROWS[row][1], {name: speed / best for name, speed in speeds.items()}))
    left, top, height, width = 270, 70, 24, 900
    low, high = 0.1, 30.0
    total = top + height * len(rows) + 40

    def x(value):
        value = min(max(value, low), high)
        return left + (width - left - 30) * (log10(value) - log10(low)) / (log10(high) - log10(low))

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>Speed beside the best encrypted peer, {about}</title>",
        "<desc>The same numbers as in the tables beside this picture.</desc>",
        f'<rect width="{width}" height="{total}" fill="white"/>',
        f'<text x="10" y="20" font-size="15">Speed, the best encrypted peer of each row = 1 ({about}); to the right is faster</text>',
    ]
    at = 10
    for name in filesystems:
        title = TITLES[name].replace("*", "")
        out.append(f'<circle cx="{at + 6}" cy="42" r="6" fill="{COLOURS[name]}"/><text x="{at + 16}" y="46">{title}</text>')
        at += 30 + 7 * len(title)
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20):
        colour = "#444" if tick == 1 else "#ddd"
        out.append(f'<line x1="{x(tick):.1f}" y1="{top - 8}" x2="{x(tick):.1f}" y2="{total - 30}" stroke="{colour}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{total - 14}" text-anchor="middle" fill="#444">{tick}x</text>')
    for number, (what, speeds) in enumerate(rows):
        y = top + height * number + height / 2
        out.append(f'<text x="{left - 12}" y="{y + 4:.0f}" text-anchor="end">{what}</text>')
        for name in sorted(speeds, key=lambda name: name == "sero"):
            radius = 6.5 if name == "sero" else 5
            out.append(
                f'<circle cx="{x(speeds[name]):.1f}" cy="{y:.0f}" r="{radius}" fill="{COLOURS[name]}" fill-opacity="0.85">'
                f"<title>{TITLES[name].replace('*', '')}: {speeds[name]:.2f}x</title></circle>"
            )
    return "\n".join(out) + "\n</svg>\n"


def put_into(document, name, text):
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    with open(document) as file:
        old = file.read()
    if begin not in old or end not in old:
        sys.exit(f"{document} has no place for {name}: {begin} ... {end}")
    with open(document, "w") as file:
        file.write(old[: old.index(begin) + len(begin)] + "\n" + text + old[old.index(end) :])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("measurements")
    parser.add_argument("--document")
    parser.add_argument("--chart")
    parser.add_argument("--name", default="tmpfs")
    parser.add_argument("--about", default="")
    arguments = parser.parse_args()
    values = read(arguments.measurements)
    text = tables(values)
    print(text)
    if arguments.chart:
        with open(arguments.chart, "w") as file:
            file.write(chart(values, arguments.name))
    if arguments.document:
        picture = f"![the same as a picture]({os.path.basename(arguments.chart)})\n\n" if arguments.chart else ""
        put_into(arguments.document, arguments.name, f"\n{arguments.about}\n\n{text}\n{picture}")


if __name__ == "__main__":
    main()
