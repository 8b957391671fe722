"""The tables of `scripts/bench` as pictures: a bar for each figure, on a logarithmic scale."""
import math, os

from bench_kit import HOME, short

COLOURS = {"floor": "#9a9a9a", "runtime": "#2a6fbb", "mydocker": "#2a6fbb", "crun": "#d08a2c", "runc": "#b24a4a",
           "docker": "#d08a2c", "podman": "#b24a4a", "ctr": "#6b8f3c"}
LEFT, WIDTH, BAR, GAP = 330, 860, 13, 12


def plot(name, title, rows, names):
    """Writes scripts/plots/NAME.svg."""
    rows = [row for row in rows if len(row.figures) > 1]
    figures = [figure[0] for row in rows for figure in row.figures.values() if figure[0] > 0]
    least = 10 ** math.floor(math.log10(min(figures)))
    decades = math.log10(max(figures) / least)
    place = lambda value: LEFT + (WIDTH - LEFT - 60) * max(0, math.log10(max(value, least) / least)) / decades
    out, y = [], 34
    for row in rows:
        out.append(text(LEFT - 8, y + 11, f"{row.what.replace('`', '')}, {row.unit}", "end"))
        for who in names:
            if who not in row.figures:
                continue
            value = row.figures[who][0]
            out.append(f'<rect x="{LEFT}" y="{y}" width="{max(1, place(value) - LEFT):.1f}" height="{BAR - 2}" '
                       f'fill="{COLOURS[who]}"/>')
            out.append(text(place(value) + 4, y + 10, f"{short(value)} {who}"))
            y += BAR
        y += GAP
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
            f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>')
    os.makedirs(f"{HOME}/scripts/plots", exist_ok=True)
    with open(f"{HOME}/scripts/plots/{name}.svg", "w") as file:
        file.write("\n".join([head, text(8, 18, f"{title} (logarithmic scale; shorter is better)"), *out, "</svg>\n"]))


def text(x, y, words, anchor="start"):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{words}</text>'
