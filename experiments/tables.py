"""The tables of experiments/README.md and docs/, made from results/*.json.

    python experiments/tables.py                                makes them anew
    python experiments/tables.py NAME comparison/results.json   first keeps a result, as results/NAME.json

A result is the results.json of `cryoden compare` or `cryoden test`, without what it says of each volume. A table stands
between `<!-- NAME: measure, measure -->` and `<!-- end -->`: a row for each method; or between
`<!-- measure: NAME, NAME -->` and `<!-- end -->`: a column for each result. Where a page shows images/NAME_curves.png,
it is drawn from what `thesis.py` found: how each system learnt.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from cryoden.evaluation.tables import read_thesis
from cryoden.metrics import MEASURES
from cryoden.pictures import STYLES, plain_axis, save_figure

EXPERIMENTS = Path(__file__).resolve().parent
_DOCS = EXPERIMENTS.parent / "docs"
_NAMES = (
    "experiments",
    "discriminator",
    "gallery",
    "models-measured",
    "several-particles",
    "systems",
    "thesis-rows",
    "unseen",
)
PAGES = (EXPERIMENTS / "README.md", *(_DOCS / f"{name}.md" for name in _NAMES))
THESIS = "UpsampleUnetGAN, thesis"  # its best system
MARK = re.compile(r"(<!-- (\w+): ([\w., ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_KEPT = ("created", "versions", "hardware", "experiment")

Result = dict[str, Any]


def read(name: str) -> Result:
    """A result that was kept."""
    result: Result = json.loads((EXPERIMENTS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return result


def keep(name: str, source: Path) -> None:
    """Write results/NAME.json: a result without what it says of each volume and each particle."""
    full = json.loads(source.read_text(encoding="utf-8"))
    kept = {"title": name.replace("_", " "), "commands": [full["command"]]} | {key: full[key] for key in _KEPT}
    kept["data"] = {key: value for key, value in full["data"].items() if key not in ("items", "entries")}
    kept["percentiles"] = {method: scores["all"] for method, scores in full["percentiles"].items()}
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    (EXPERIMENTS / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def cell(measure: str, scores: dict[str, dict[str, float | None]], spread: bool = False) -> str:
    """A median as text, with its 5th and 95th percentile if asked for and known."""
    low, median, high = (
        math.nan if (value := scores.get(measure, {}).get(key)) is None else value for key in ("p5", "p50", "p95")
    )
    show = MEASURES[measure].show
    return f"{show(median)} [{show(low)}, {show(high)}]" if spread and low < high else show(median)


def thesis(result: Result) -> dict[str, dict[str, float]]:
    """What the thesis's best system scored in the same experiment."""
    known = read_thesis(result["experiment"])
    return {name: {"p50": value} for name, value in known.get(("UpsampleUnetGAN", 50), {}).items()}


def of_all(result: Result) -> dict[str, Any]:
    """The scores of all methods and, but in the grid, whose rows each stand beside its own, of the thesis's best."""
    best = {} if "rows" in result else thesis(result)
    return {**result["percentiles"], **({THESIS: best} if best else {})}


def of_methods(name: str, measures: Sequence[str]) -> list[list[str]]:
    """One result: a row for each method, NRMSE with its spread; of `thesis.py`, each beside the thesis's own."""
    result = read(name)
    grid = result.get("rows")
    rows = of_all(result)
    header = [f"{result['data']['volumes']} volumes", *(MEASURES[measure].column for measure in measures)]
    made = [[method, *(cell(m, scores, m == "nrmse") for m in measures)] for method, scores in rows.items()]
    if grid is not None:
        header += ["thesis: NRMSE", "volumes seen", "minutes"]
        made = [[*cells, *trained(cells[0], grid, result["experiment"])] for cells in made]
    return [header, *made]


def trained(method: str, grid: dict[str, Any], experiment: str) -> list[str]:
    """What the thesis's system of that name scored; how many volumes ours has seen, and the minutes that it took."""
    about = grid.get(method, {"system": method})
    known = read_thesis(experiment).get((about["system"], 50), {})
    beside = MEASURES["nrmse"].show(known["nrmse"]) if known else "–"
    if "volumes_seen" not in about:
        return [beside, "–", "–"]
    minutes = about["minutes" if about["hardware"]["gpu"] else "cpu_minutes"]
    return [beside, f"{about['volumes_seen']:,}", ", ".join(f"{each:.1f}" for each in minutes)]


def of_results(measure: str, names: Sequence[str]) -> list[list[str]]:
    """One measure: a row for each method, a column for each result."""
    results = [read(name) for name in names]
    columns = [of_all(result) for result in results]
    methods = sorted(dict.fromkeys(method for column in columns for method in column), key=THESIS.__eq__)  # it last
    header = [MEASURES[measure].column, *(result["title"] for result in results)]
    return [header, *([method, *(cell(measure, column.get(method, {})) for column in columns)] for method in methods)]


def rendered(text: str) -> str:
    """A page with its tables made anew."""

    def table(mark: re.Match[str]) -> str:
        begin, first, rest, end = mark.groups()
        others = rest.split(", ")
        header, *rows = of_results(first, others) if first in MEASURES else of_methods(first, others)
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
        return "\n".join([begin, *lines, "", end])

    return MARK.sub(table, text)


def learning_curves(result: Result) -> Figure:
    """Validation NRMSE of each system over the volumes that it saw (the thesis's figure 18): of `thesis.py`."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    systems = list(dict.fromkeys(row["system"] for row in result["rows"].values()))
    styles = {system: STYLES[number % len(STYLES)] for number, system in enumerate(systems)}
    for name, row in result["rows"].items():
        if name.startswith(f"{row['system']},"):  # the system itself, no variant of it
            style, (volumes, values) = styles[row["system"]], zip(*row["curve"], strict=True)
            line = "-" if systems.index(row["system"]) < len(STYLES) else ":"
            axis.plot(volumes, values, color=style.color, linestyle=line, marker=style.marker, markersize=4, label=name)
    for name, values in result["percentiles"].items():
        if name not in result["rows"] and name in ("zeros", "Gaussian filter", "non-local means"):
            axis.axhline(values["nrmse"]["p50"], color="#999999", linewidth=1)
            place = (1, values["nrmse"]["p50"])
            axis.annotate(f"{name}, test volumes", place, xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axis.set(xscale="log", xlabel="volumes seen", ylabel="validation NRMSE", ylim=(0, 1.1))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    plain_axis(axis)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def write_pages() -> None:
    """Make the tables and the curves anew."""
    for page in PAGES:
        text = rendered(page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
        for name in re.findall(r"images/(\w+)_curves.png", text):
            save_figure(learning_curves(read(name)), _DOCS / "images" / f"{name}_curves.png", overwrite=True)


def main() -> None:
    """Keep a result if one is given, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="what to call the result")
    parser.add_argument("source", nargs="?", type=Path, help="the results.json")
    arguments = parser.parse_args()
    if arguments.name:
        keep(arguments.name, arguments.source)
    write_pages()


if __name__ == "__main__":
    main()
