"""How often the mark † and the two-level interval err, where no cell is better than another.

    python benchmarks/simulate_statistics.py --replications 4000

Made-up scores; the decisions are those of `experiments.reporting.statistics`.

    †           cells that are equally good: how often is any of them called separated from the best?
    two-level   two cells that are equally good for new units: how often does the interval leave out 0?
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from experiments.reporting.statistics.best import with_the_best
from experiments.reporting.statistics.levels import two_level

SPREADS = ("equal", "one cell four times", "from 1 to 8", "t with 3 degrees", "skewed")
"""What the standard deviations of the cells are, or how their errors are distributed."""

SIZES = ("equal", "lognormal 0.7", "lognormal 1", "one unit 40 %", "two units 25 %", "two units 30 %")
"""How many utterances units have."""

VARIATION = {"units": (0.10, 0.0, 0.0), "units and studies": (0.10, 0.05, 0.0), "units by study": (0.02, 0.02, 0.05)}
"""How much a difference varies (standard deviations): between units, between studies, and between their pairs."""


def scores_of_equals(rng: np.random.Generator, spread: str, cells: int, studies: int) -> np.ndarray:
    """[cells, studies] of cells with one mean; a study adds the same to all of them."""
    size = (cells, studies)
    if spread == "t with 3 degrees":
        errors = rng.standard_t(3, size)
    elif spread == "skewed":
        errors = rng.exponential(1, size) - 1
    else:
        errors = rng.normal(size=size)
    sd = np.ones(cells)
    if spread == "one cell four times":
        sd[0] = 4
    elif spread == "from 1 to 8":
        sd = np.geomspace(1, 8, cells)
    return np.asarray(errors * sd[:, None] + rng.normal(0, 3, studies))


def any_equal_lost(rng: np.random.Generator, spread: str, cells: int, studies: int, replications: int) -> float:
    lost = 0
    for _ in range(replications):
        lost += not all(with_the_best(scores_of_equals(rng, spread, cells, studies)) or [False])
    return lost / replications


def unit_sizes(rng: np.random.Generator, kind: str, units: int) -> np.ndarray:
    word, _, rest = kind.partition(" ")
    if word == "equal":
        return np.full(units, 20)
    if word == "lognormal":
        return np.asarray(np.maximum(2, (20 * np.exp(rng.normal(0, float(rest), units))).astype(int)))
    big, share = {"one": 1, "two": 2}[word], float(rest.split()[1]) / 100
    sizes = np.full(units, 10)
    sizes[:big] = round(10 * (units - big) * share / (1 - big * share))
    return sizes


def counts_of_equals(
    rng: np.random.Generator, sizes: np.ndarray, studies: int, variation: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Confusion counts [study, unit, 2, 2] of two cells that are equally good for the mean unit and study."""
    units = sizes.size
    of_unit, of_study, of_both = variation
    apart = rng.normal(0, of_unit, units)[None] + rng.normal(0, of_study, studies)[:, None]
    apart = apart + rng.normal(0, of_both, (studies, units))
    first = np.round(sizes * rng.uniform(0.2, 0.8, units)).astype(int)  # of the first class
    found = []
    for sign in (0.5, -0.5):
        chance = np.clip(0.6 + sign * apart, 0.02, 0.98)
        hits = [rng.binomial(total, chance) for total in (first, sizes - first)]
        rows = [np.stack([hits[0], first - hits[0]], -1), np.stack([sizes - first - hits[1], hits[1]], -1)]
        found.append(np.stack(rows, -2).astype(np.float64))
    return found[0], found[1]


def interval_errs(
    rng: np.random.Generator, kind: str, units: int, studies: int, variation: str, metric: str, replications: int
) -> tuple[float, float]:
    """How often an interval leaves out 0, and how often one is refused."""
    wrong = made = 0
    for _ in range(replications):
        first, second = counts_of_equals(rng, unit_sizes(rng, kind, units), studies, VARIATION[variation])
        found = two_level([(1, first), (-1, second)], metric)
        if found is not None:
            made += 1
            wrong += not found.low <= 0 <= found.high
    return wrong / max(1, made), 1 - made / replications


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "statistics.md")
    args = parser.parse_args()
    started, rng, count = time.process_time(), np.random.default_rng(args.seed), args.replications
    best = ["| cells | studies | " + " | ".join(SPREADS) + " |", "|--:|--:|" + "--:|" * len(SPREADS)]
    for cells, studies in itertools.product((2, 3, 6, 12), (3, 5, 10)):
        shares = [f"{100 * any_equal_lost(rng, spread, cells, studies, count):.1f}" for spread in SPREADS]
        best.append(f"| {cells} | {studies} | {' | '.join(shares)} |")
        print(best[-1], flush=True)
    level = [
        "| metric | studies | units | differ | " + " | ".join(SIZES) + " |",
        "|:--|--:|--:|:--|" + "--:|" * len(SIZES),
    ]
    for metric, studies, units, variation in itertools.product(("wa", "ua"), (3, 5, 10), (12, 30), VARIATION):
        shown = []
        for kind in SIZES:
            wrong, refused = interval_errs(rng, kind, units, studies, variation, metric, count // 2)
            shown.append("refused" if refused > 0.95 else f"{100 * wrong:.1f}")
        level.append(f"| {metric} | {studies} | {units} | {variation} | {' | '.join(shown)} |")
        print(level[-1], flush=True)
    seconds = time.process_time() - started
    bounds = [196 * (0.05 * 0.95 / n) ** 0.5 for n in (count, count // 2)]
    text = f"""# How often the statistics err

Made by `python benchmarks/simulate_statistics.py --replications {count}` ({seconds:.0f} s of one core). In per cent;
5 is what is promised at most.

## The mark †: any of the equally good cells called separated from the best

{count} grids each; 5 ± {bounds[0]:.1f} is what chance leaves of 5.

{chr(10).join(best)}

## The two-level interval leaves out the truth

{count // 2} experiments each; 5 ± {bounds[1]:.1f} is what chance leaves of 5. Where units weigh less than five
equal ones the interval is refused, and not counted.

{chr(10).join(level)}
"""
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
