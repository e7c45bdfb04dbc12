"""What a plan's claims are worth, given all that was ever declared in a results folder: a function of plain data.

    unit        one thing that may be claimed: weights over cells (recipes and what is tuned in them, not names),
                metric, condition, scope, test, margin, corpus content, root seed, folds
    question    declarations that could make the same comparison on the same corpus: those of one space name, and those
                that share two cells; closed over further ones. A shared baseline alone joins nothing
    late        declared when results of at least two cells of its question, that is a difference, were on record

The family is every unit that was declared for the question in time, whatever became of it. A unit that was declared
late is post hoc, and corrected for all that was ever declared. Nothing here looks at a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.results.identity import canonical, digest
from experiments.space.text import counted

Data = Mapping[str, Any]
Confirmed = Mapping[str, Mapping[str, int]]
"""Corpus name to cell (`base`) to the number of its confirm results."""

BUDGET = ("training", "optimizer", "schedule")
"""Parts of a recipe that say how long and how a cell is trained, not what it is."""

NEW_CORPORA = "new corpora"


@dataclass(frozen=True)
class Declaration:
    """What was declared, after what: `previous` are the ids of the declarations that were known, `confirmed` the
    results that were on record. With `forgets`, a space, there is no plan: its results were to be removed."""

    id: str
    plan: Data
    previous: tuple[str, ...] = ()
    confirmed: Confirmed = field(default_factory=dict)
    time: str = ""
    forgets: str = ""


@dataclass(frozen=True)
class Old:
    """A declaration of the first version, which knew contrasts by cell names and had times alone."""

    contrasts: frozenset[str]
    metric: str
    studies: int
    draws: int
    time: str = ""
    late: bool = False


@dataclass(frozen=True)
class Standing:
    """How a plan stands to what was declared before it.

    post_hoc   of each contrast of the plan, in its order
    times      when each was first declared, for people
    declared   units that were declared in time: the family; `ever`: all units
    studies, draws   what was last declared in time; None where nothing was
    marks      what was changed after the first results, in words
    history    one line a declaration, oldest first
    hidden     cells of the question whose results had been seen, and which this plan leaves out
    """

    post_hoc: tuple[bool, ...] = ()
    times: tuple[str, ...] = ()
    declared: int = 0
    ever: int = 0
    metric_post_hoc: bool = False
    metric_time: str = ""
    studies: int | None = None
    draws: int | None = None
    marks: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    others: int = 0
    other_units: int = 0
    hidden: int = 0


# ---- cells and contrasts -------------------------------------------------------------------------------------


def cell_keys(recipe: Data, hypers: Sequence[Data]) -> dict[str, str]:
    """What a cell is, apart from its name.

    base   the recipe without what is tuned: what a result on record can be matched with
    key    and what is tuned, in which range
    like   the recipe without what is tuned and without its budget: the same cell, trained longer or otherwise
    twin   and without its replica: the same cell with other random streams
    """
    tuned = sorted(str(hyper["path"]) for hyper in hypers)
    whole = without(recipe, tuned)
    ranges = sorted(canonical(hyper) for hyper in hypers)
    return {
        "base": base_of(recipe, tuned),
        "key": digest(canonical([whole, ranges])),
        "like": digest(canonical(_kind(whole))),
        "twin": digest(canonical(_kind(without(whole, ["replica"])))),
    }


def _kind(whole: Data) -> dict[str, Any]:
    """What a cell is, without its budget and without fields that its sampler or loss does not read: a field that
    changes nothing makes no other cell."""
    found = {name: part for name, part in whole.items() if name not in BUDGET}
    if found.get("sampler", {}).get("name", "plain") == "plain":
        found.pop("sampler", None)
    if found.get("loss", {}).get("name", "cross_entropy") == "cross_entropy":
        loss = {name: value for name, value in found.pop("loss", {}).items() if name not in ("name", "gamma")}
        found |= {"loss": loss} if loss else {}
    return found


def base_of(recipe: Data, tuned: Iterable[str]) -> str:
    tuned = sorted(tuned)
    return digest(canonical([without(recipe, tuned), tuned]))


def without(recipe: Data, paths: Iterable[str]) -> dict[str, Any]:
    """A recipe (defaults left out) without some of its fields, and without its place in a bundle."""
    found: dict[str, Any] = _copied(recipe)
    found.pop("bundle", None)
    for path in paths:
        *parents, last = path.split(".")
        part: Any = found
        for name in parents:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part.pop(last, None)
    return {name: part for name, part in found.items() if part != {}}


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def units(plan: Data) -> list[str]:
    """The unit that each contrast of a plan is, in its order."""
    keys = {(cell["corpus"], cell["name"]): cell["key"] for cell in plan["cells"] if "key" in cell}
    missing = {condition["name"]: condition["missing"] for condition in plan["conditions"]}
    found = []
    for contrast in plan["contrasts"]:
        corpus = contrast["corpus"]
        weights = sorted((keys.get((corpus, cell), cell), weight) for cell, weight in contrast["weights"].items())
        size = max((abs(weight) for _, weight in weights), default=1.0) or 1.0
        sign = -1.0 if weights and weights[0][1] < 0 else 1.0  # a test has two sides: a - b is b - a
        content = None if contrast["scope"] == NEW_CORPORA else plan["corpora"][corpus]["fingerprint"]
        shown = [[key, round(sign * weight / size, 12)] for key, weight in weights]
        condition = missing.get(contrast["condition"], contrast["condition"])
        margin = None if contrast["margin"] is None else round(contrast["margin"] / size, 12)
        what = [contrast["metric"], condition, contrast["scope"], contrast["test"], margin]
        where = [content, plan["root_seed"], plan["folds"], plan["resplit"]]
        found.append(digest(canonical([shown, what, where])))
    return found


def settings(plan: Data) -> dict[str, str]:
    """What must not change after a look, each as text that can be shown and compared."""
    epochs = sorted({cell["epochs"] for cell in plan["cells"] if "epochs" in cell})
    tuning = {key: value for key, value in plan["tuning"].items() if key != "draws" and draws(plan)}
    conditions = sorted(
        " ".join(f"{key} {value}" for key, value in sorted(condition["missing"].items())) or "complete"
        for condition in plan["conditions"]
    )
    return {
        "metric": f"{plan['metric']}",
        "alpha": f"{plan['alpha']:g}",
        "root seed": str(plan["root_seed"]),
        "epochs": ", ".join(map(str, epochs)),
        "tuning": ", ".join(f"{key} {value}" for key, value in sorted(tuning.items())),
        "folds": f"{canonical(plan['folds'])}{' resplit' if plan['resplit'] else ''}",
        "conditions": ", ".join(conditions),
        "corpora": ", ".join(sorted(f"{name} {ref['fingerprint'][:8]}" for name, ref in plan["corpora"].items())),
    }


def draws(plan: Data) -> int:
    """Draws of a cell and study; 0 where nothing is tuned, whatever the space says of draws."""
    return int(plan["tuning"]["draws"]) if any(cell.get("hypers") for cell in plan["cells"]) else 0


def meaning(plan: Data) -> str:
    """A digest of what a plan declares, in whatever order it is written."""
    cells = sorted([*_called(cell), cell["key"]] for cell in plan["cells"] if "key" in cell)
    content = [plan["space"], cells, sorted(set(units(plan))), settings(plan), plan["studies"], draws(plan)]
    return digest(canonical(content))


# ---- questions -----------------------------------------------------------------------------------------------


class _Corpora:
    """Which corpora are one: of one name, of one content, or with one test split, whatever its labels are called."""

    def __init__(self, plans: Iterable[Data]) -> None:
        self._root: dict[str, str] = {}
        for plan in plans:
            for name, ref in plan["corpora"].items():
                for mark in ("fingerprint", "utterances"):
                    if ref.get(mark):
                        self._root[self.of(f"{mark} {ref[mark]}")] = self.of(name)

    def of(self, name: str) -> str:
        while self._root.get(name, name) != name:
            name = self._root[name]
        return name

    def cells(self, plan: Data, kind: str) -> Counter[tuple[str, str]]:
        """How many cells of a kind a plan has, in which corpus."""
        return Counter(
            (self.of(cell["corpus"]), cell.get(kind, cell["like"])) for cell in plan["cells"] if "like" in cell
        )

    def streams(self, plan: Data) -> set[tuple[str, str, str, int, int]]:
        """Corpus, twin and base of each cell, and what its random streams come from: root seed and replica."""
        return {
            (self.of(cell["corpus"]), cell.get("twin", cell["like"]), cell["base"], plan["root_seed"],
             int(cell["recipe"].get("replica", 0)))
            for cell in plan["cells"]
            if "like" in cell
        }  # fmt: skip


def _question(mine: Declaration, chain: Sequence[Declaration], corpora: _Corpora) -> list[Declaration]:
    """The declarations of a plan's question, in the chain's order."""
    places = {one.id: {corpora.of(name) for name in one.plan["corpora"]} for one in chain}
    kinds = ("base", "like", "twin")
    cells = {(one.id, kind): corpora.cells(one.plan, kind) for one in chain for kind in kinds}

    def joined(one: Declaration, other: Declaration) -> bool:
        shared = places[one.id] & places[other.id]
        if not shared:
            return False
        if one.plan["space"] == other.plan["space"]:
            return True
        common = (cells[one.id, kind] & cells[other.id, kind] for kind in kinds)
        return any(
            sum(number for (here, _), number in found.items() if here == place) >= 2
            for found in common
            for place in shared
        )

    found, new = {mine.id}, [mine]
    while new:
        one = new.pop()
        for other in chain:
            if other.id not in found and joined(one, other):
                found.add(other.id)
                new.append(other)
    return [one for one in chain if one.id in found]


def in_order(chain: Iterable[Declaration]) -> list[Declaration]:
    """Each declaration after those that it names; those that know nothing of each other by id."""
    left = sorted(chain, key=lambda one: one.id)
    known = {one.id for one in left}
    done: dict[str, Declaration] = {}
    while left:
        ready = [one for one in left if all(name in done or name not in known for name in one.previous)]
        if not ready:
            break  # a circle cannot be made of digests; what else it is, the reader of the chain refuses
        done.update((one.id, one) for one in ready)
        left = [one for one in left if one.id not in done]
    return list(done.values())


def ancestors(one: Declaration, by_id: Mapping[str, Declaration]) -> set[str]:
    found: set[str] = set()
    new = list(one.previous)
    while new:
        name = new.pop()
        if name not in found:
            found.add(name)
            new += by_id[name].previous if name in by_id else ()
    return found


def newest(chain: Sequence[Declaration]) -> list[Declaration]:
    """Those that no other one of them came after."""
    by_id = {one.id: one for one in chain}
    known: set[str] = set().union(*(ancestors(one, by_id) for one in chain))
    return [one for one in chain if one.id not in known]


# ---- standing ------------------------------------------------------------------------------------------------


def standing(
    mine: Declaration, chain: Sequence[Declaration], old: Sequence[Old] = (), ran: Iterable[str] = ()
) -> Standing:
    """How a plan stands; `chain`: all declarations of the folder, its own among them, in order (`in_order`); `ran`:
    the ids of those that trials on record were run under."""
    whole = chain if any(one.id == mine.id for one in chain) else [*chain, mine]
    chain = [one for one in whole if one.plan]
    corpora = _Corpora(one.plan for one in chain)
    question = _question(mine, chain, corpora)
    bases = {base for one in question for base in corpora.cells(one.plan, "base")}

    seen = _seen(whole, corpora)

    def look(one: Declaration) -> int:
        """Results of this question's cells that were there when this was declared; 0 while there is no difference."""
        found = {cell: count for cell, count in seen[one.id].items() if cell in bases}
        places = Counter(place for place, _ in found)
        return sum(count for (place, _), count in found.items() if places[place] >= 2)

    looks = {one.id: look(one) for one in question}
    apart = _apart(whole, frozenset(ran))
    early = [one for one in question if not looks[one.id] and one.id not in apart]
    timely = [one for one in old if not one.late]
    unit_of = {one.id: units(one.plan) for one in question}
    first: dict[str, str] = {}
    for one in question:
        for unit in unit_of[one.id]:
            first.setdefault(unit, one.time)
    in_time = {unit for one in early for unit in unit_of[one.id]}
    own, names = units(mine.plan), [contrast_key(contrast) for contrast in mine.plan["contrasts"]]
    for unit, name in zip(own, names, strict=True):
        for known in old:
            if name in known.contrasts:
                first[unit] = min(first[unit], known.time)
        if any(name in known.contrasts for known in timely):
            in_time.add(unit)
    gone = {name for known in timely for name in known.contrasts} - set(names)
    gone_late = {name for known in old for name in known.contrasts} - set(names)
    reference = newest(early)
    blind = newest([one for one in early if not bases & set(seen[one.id])])
    marks, metric_late = _changes(mine, reference, blind, timely)
    if any(one.id in apart for one in question):
        marks.append("a declaration knows of no run here and no run knows of it: it does not count as made in time")
    outside = [one for one in chain if one not in question and _shares_corpus(one, mine, corpora)]
    if _other_streams(mine, outside, whole, seen[mine.id], corpora):
        marks.append("root seed or replica: results of some of these cells with another one had been seen")
    metric = metric_key(mine.plan)
    times = [one.time for one in question if metric_key(one.plan) == metric]
    times += [known.time for known in old if known.metric == metric]
    return Standing(
        post_hoc=tuple(unit not in in_time for unit in own),
        times=tuple(first[unit] for unit in own),
        declared=len(in_time) + len(gone),
        ever=len(in_time | {unit for found in unit_of.values() for unit in found}) + len(gone | gone_late),
        metric_post_hoc=metric_late,
        metric_time=min(times, default=mine.time),
        studies=max((*(one.plan["studies"] for one in reference), *(known.studies for known in timely)), default=None),
        draws=max(
            (*(one.plan["tuning"]["draws"] for one in reference), *(known.draws for known in timely)), default=None
        ),
        marks=tuple(marks),
        history=tuple(_history(question, looks, unit_of, old)),
        others=len({one.plan["space"] for one in outside}),
        other_units=len({unit for one in outside for unit in units(one.plan)}),
        hidden=len((bases & set(seen[mine.id])) - set(corpora.cells(mine.plan, "base"))),
    )


def _apart(chain: Sequence[Declaration], ran: frozenset[str]) -> set[str]:
    """Declarations that came neither before nor after one that was run, such as those copied from another folder."""
    by_id = {one.id: one for one in chain}
    before = {one.id: {one.id, *ancestors(one, by_id)} for one in chain}
    proven: set[str] = set().union(*(before.get(name, set()) for name in ran))
    return {name for name, known in before.items() if name not in proven and not known & ran} if proven else set()


def _seen(chain: Sequence[Declaration], corpora: _Corpora) -> dict[str, dict[tuple[str, str], int]]:
    """Of each declaration the results that it or one before it knew: what was seen stays seen, whatever was removed."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for one in chain:
        here = {(corpora.of(c), base): n for c, counts in one.confirmed.items() for base, n in counts.items() if n}
        for name in one.previous:
            for cell, count in found.get(name, {}).items():
                here[cell] = max(here.get(cell, 0), count)
        found[one.id] = here
    return found


def _shares_corpus(one: Declaration, other: Declaration, corpora: _Corpora) -> bool:
    return bool({corpora.of(name) for name in one.plan["corpora"]} & {corpora.of(n) for n in other.plan["corpora"]})


def contrast_key(contrast: Data) -> str:
    """What a contrast claims, as the first version of declarations knew it."""
    return digest(canonical({name: value for name, value in contrast.items() if name != "name"}))


def metric_key(plan: Data) -> str:
    return f"{plan['metric']} {plan.get('direction', 'max')}"


def _other_streams(
    mine: Declaration,
    outside: Sequence[Declaration],
    chain: Sequence[Declaration],
    seen: Iterable[tuple[str, str]],
    corpora: _Corpora,
) -> bool:
    """Were results of one of a plan's cells, such as its baseline, seen with random streams that it does not take? One
    could be chosen in which that cell is unlucky; a difference need not have been seen for that."""
    before = ancestors(mine, {one.id: one for one in chain})
    own = corpora.streams(mine.plan)
    cells, taken = {found[:2] for found in own}, {(*found[:2], *found[3:]) for found in own}
    there = {found for one in outside if one.id in before for found in corpora.streams(one.plan)}
    return any(
        (place, base) in seen and (place, twin) in cells and (place, twin, *streams) not in taken
        for place, twin, base, *streams in there
    )


def _changes(
    mine: Declaration, reference: Sequence[Declaration], blind: Sequence[Declaration], old: Sequence[Old]
) -> tuple[list[str], bool]:
    """What a plan has otherwise than it was last declared in time (`reference`); is the metric among it?

    blind   what was last declared before there was any result, even of one cell alone: results of a baseline are enough
            to choose a seed, or a number of studies, in which it is unlucky
    """
    if not reference and not old:
        return [], True
    marks = []
    now, before = settings(mine.plan), [settings(one.plan) for one in reference]
    metric_late = all(metric_key(one.plan) != metric_key(mine.plan) for one in reference)
    metric_late = metric_late and all(known.metric != metric_key(mine.plan) for known in old)
    for name, value in now.items():
        declared = [settings(one.plan)[name] for one in blind] if name == "root seed" and blind else []
        declared = declared or [known[name] for known in before]
        if declared and value not in declared:
            marks.append(f"{name}: {value or 'none'} (declared: {' or '.join(dict.fromkeys(declared))})")
    renamed = _other_meaning(mine, reference)
    if renamed:
        marks.append(f"what is called {', '.join(renamed)}: it was declared as something else")
    for name, count, known in (
        ("studies", mine.plan["studies"], [*(one.plan["studies"] for one in reference), *(one.studies for one in old)]),
        (
            "draws",
            draws(mine.plan),
            [*(draws(one.plan) for one in reference), *(one.draws for one in old)],
        ),
    ):
        if name == "studies":
            known += [one.plan["studies"] for one in blind if one.plan["studies"] > count]
        if count != max(known):
            marks.append(f"{'more' if count > max(known) else 'fewer'} {name}: {count} (declared: {max(known)})")
    return marks, metric_late


def _called(cell: Data) -> tuple[str, str]:
    """What people call a cell, in whatever order its factors are written."""
    return cell["corpus"], canonical(cell["levels"])


def _other_meaning(mine: Declaration, reference: Sequence[Declaration]) -> list[str]:
    """Cells of a plan whose name meant another cell when it was declared in time."""
    known: dict[tuple[str, str], set[str]] = {}
    for cell in (cell for one in reference for cell in one.plan["cells"] if "like" in cell):
        known.setdefault(_called(cell), set()).add(cell["like"])
    cells = [cell for cell in mine.plan["cells"] if "like" in cell and _called(cell) in known]
    return list(dict.fromkeys(cell["name"] for cell in cells if cell["like"] not in known[_called(cell)]))


def _history(
    question: Sequence[Declaration], looks: Mapping[str, int], unit_of: Mapping[str, list[str]], old: Sequence[Old]
) -> list[str]:
    lines = [
        f"{counted(len(known.contrasts), 'contrast')}, {counted(known.studies, 'study')}, "
        f"{counted(known.draws, 'draw')}, "
        f"{'after' if known.late else 'before'} the first result by time alone (declared by an earlier version of mer)"
        for known in old
    ]
    previous: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, one in enumerate(question, 1 + len(lines)):
        plan = one.plan
        found = {"space": plan["space"], "options": " ".join(plan.get("options") or ()), **settings(plan)}
        wanted = ("space", "options", "alpha", "root seed", "epochs") if not previous else tuple(found)
        changed = [f"{key} {found[key] or 'none'}" for key in wanted if found[key] != previous.get(key, "")]
        said = [counted(len(set(unit_of[one.id])), "contrast"), counted(plan["studies"], "study")]
        said += [counted(draws(plan), "draw"), *changed]
        before = numbers.setdefault(meaning(plan), number)
        count = looks[one.id]
        lines.append(
            (", ".join(said) if before == number else f"as {before}")
            + (f"; after {counted(count, 'confirm result')}" if count else "; before the first result")
        )
        previous = found
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]
