"""Claims: what each declared contrast shows, in words that say no more than the data carry.

A claim has a verdict, its evidence and its scope. The p value that decides is the one of the declared scope:

    this test set            paired test over studies (the space's: Student's t or exact sign flips)
    new dialogues, speakers  two-level interval (study and unit)
    new corpora              random effects over corpora
    folds, one study         Nadeau and Bengio's test over folds

corrected by Holm over the family: all that was declared for the question before its first result, in whatever run.
Post hoc contrasts are corrected for all that was ever declared and change nothing for the declared ones. While planned
studies of a contrast have not been run, nothing is claimed of it: a look at the data would be a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from experiments.reporting.evidence import UNIT_COLUMN, Counts, Scope, beyond_test_set, over_folds, sides_of, weighted
from experiments.reporting.numbers import count, p_text, points, signed_interval
from experiments.reporting.rates import alike, shown
from experiments.reporting.spec import SCOPES, Contrast
from experiments.reporting.statistics.corpora import FEWEST_CORPORA, random_effects
from experiments.reporting.statistics.family import adjusted
from experiments.reporting.statistics.folds import nadeau_bengio
from experiments.reporting.statistics.paired import TESTS, Comparison, compare, decidability, equivalence

if TYPE_CHECKING:
    from experiments.reporting.run import Run


@dataclass(frozen=True)
class Claim:
    """What one declared contrast shows.

    verdict  better | worse | equivalent | undecided | undecidable | untested | refused | withheld
    """

    contrast: Contrast
    verdict: str
    text: str
    evidence: str
    comparison: Comparison | None
    p: float | None
    adjusted: float | None
    family: int
    scopes: tuple[Scope, ...] = ()
    remarks: tuple[str, ...] = ()
    differences: tuple[float, ...] = ()
    sides: tuple[str, str] = ("", "")
    corpora: tuple[str, ...] = field(default_factory=tuple)

    @property
    def scope(self) -> str:
        return self.contrast.scope

    @property
    def interval(self) -> Scope | None:
        """The interval of the declared scope."""
        return next((s for s in self.scopes if s.name == self.contrast.scope and not s.refusal), None)


def evaluate(run: Run, contrast: Contrast, counts: Counts, family: int) -> Claim:
    """Everything about a contrast but the correction and the words, which need its family."""
    level, higher = run.spec.level, run.higher_is_better(contrast.metric)
    missing = [cell for cell in contrast.weights if cell not in run.cells(contrast.corpus)]
    values = weighted(run, contrast) if not missing else np.empty(0)
    planned = run.by_study(contrast.corpus, contrast.metric, contrast.condition).shape[1]
    sides = sides_of(run, contrast)
    remarks = marks_of(run, contrast)
    there, all_of_them = studies_there(run, contrast)
    if there < all_of_them:
        pair = f"{sides[0]} against {sides[1]}" if all(sides) else contrast.name
        text = f"{pair}: withheld, {there} of {count(all_of_them, 'planned study', 'planned studies')} are there"
        return Claim(
            contrast, "withheld", text, "", None, None, None, family,
            remarks=tuple(remarks), sides=sides, corpora=(contrast.corpus,),
        )  # fmt: skip
    if values.size == 0:
        why = f"no cell {missing[0]!r}" if missing else "no study in which all of its cells have a score"
        text = f"{contrast.name}: not tested, {why}"
        return Claim(contrast, "untested", text, "", None, None, None, family, sides=sides)
    zero = np.zeros_like(values)
    comparison = compare(values, zero, test=contrast.test, level=level, higher_is_better=higher, family=family)
    if values.size < planned:
        remarks.append(f"{values.size} of {planned} planned studies have all cells")
    if comparison.constant and comparison.mean != 0:
        remarks.append(
            f"the difference is the same in all {comparison.n} studies; p is what their signs alone can tell"
        )
    if run.spec.tuning.get("once"):
        remarks.append("given these hyperparameters: they were tuned once, in the first study")
    basis = f"{TESTS[contrast.test]} over {count(comparison.n, 'study', 'studies')}"
    scopes = [Scope("this test set", comparison.mean, comparison.low, comparison.high, comparison.p, basis)]
    if run.spec.folds > 1:
        folds = nadeau_bengio(over_folds(run, contrast), level=level)
        if folds is not None:
            name = f"new folds (by {run.spec.fold_by})" if run.spec.fold_by else "new folds"
            over = Scope(name, folds.mean, folds.low, folds.high, folds.p, f"Nadeau-Bengio over {folds.folds} folds")
            scopes.append(over)
            if comparison.n < 2:  # one study: the folds are all there is
                scopes[0] = replace(over, name="this test set")
    wanted = [name for name in UNIT_COLUMN if name == contrast.scope or comparison.n >= 2]
    if (run.folder / "predictions").is_dir() or contrast.scope in UNIT_COLUMN:
        scopes += [beyond_test_set(run, contrast, name, counts) for name in wanted]
    cells = list(contrast.weights)
    if not all(alike(run, contrast.corpus, contrast.condition, cells[0], cell) for cell in cells[1:]):
        apart = f"{contrast.condition} takes another share of its modalities from some of its cells than from others"
        scopes = [Scope(contrast.scope, refusal=apart)]
    decisive = next((s for s in scopes if s.name == contrast.scope), None)
    p = decisive.p if decisive else None
    return Claim(
        contrast,
        "undecided",
        "",
        "",
        comparison,
        p,
        None,
        family,
        tuple(scopes),
        tuple(remarks),
        tuple(float(v) for v in values),
        sides,
        (contrast.corpus,),
    )


def marks_of(run: Run, contrast: Contrast) -> list[str]:
    """What was done about a contrast after results were seen."""
    found = []
    if contrast.post_hoc:
        found.append("post hoc: declared or changed after the first confirm result")
    if run.second_look(contrast.corpus):
        found.append("second look: studies or draws were added after the first test score was seen")
    return found + [f"changed after the first results: {mark}" for mark in run.spec.marks]


def studies_there(run: Run, contrast: Contrast) -> tuple[int, int]:
    """In how many studies every cell of a contrast has ended, whatever way, and how many are planned."""
    t = run.own
    slots = t[(t["stage"] == "confirm") & (t["corpus"] == contrast.corpus) & t["cell"].isin(list(contrast.weights))]
    missing = slots.loc[slots["status"] == "missing", "study"].nunique()
    planned = slots["study"].nunique()
    return planned - missing, planned


def _joint_scope(claims: list[Claim], level: float) -> Scope:
    """Random effects over the corpora on which a contrast was made."""
    usable = [c for c in claims if c.comparison is not None and c.comparison.sd is not None]
    if len(usable) < FEWEST_CORPORA:
        have = f"{len(usable)} corpus" if len(usable) == 1 else f"{len(usable)} corpora"
        return Scope("new corpora", refusal=f"the run has {have}, at least {FEWEST_CORPORA} are needed")
    means, variances = [], []
    for claim in usable:
        c = claim.comparison
        assert c is not None
        assert c.sd is not None
        means.append(c.mean)
        variances.append(c.sd**2 / c.n)
    joint = random_effects(means, variances, level)
    assert joint is not None
    basis = f"random effects over {joint.corpora} corpora, τ = {joint.tau * 100:.1f} points, I² = {joint.i2:.0%}"
    return Scope("new corpora", joint.mean, joint.low, joint.high, joint.p, basis)


def _worded(claim: Claim, run: Run, open_ended: int) -> Claim:
    """The verdict and the sentence, once the adjusted p value is known.

    open_ended   claims whose p can be as small as it may be: Holm's steps to them leave fewer for an exact test
    """
    contrast, c = claim.contrast, claim.comparison
    if c is None:
        return claim
    scope = next((s for s in claim.scopes if s.name == contrast.scope), None)
    where = f" on {contrast.corpus}" if len(run.corpora) > 1 and contrast.scope != "new corpora" else ""
    if contrast.condition != "complete":
        where += f" under {shown(run, contrast.corpus, contrast.condition, contrast.weights)}"
    if contrast.metric != run.spec.metric:
        where += f" in {run.metric_name(contrast.metric)}"
    refusal = scope.refusal if scope is not None else f"unknown scope; expected {', '.join(SCOPES)}"
    if contrast.margin is not None and contrast.scope != "this test set":
        refusal = refusal or "equivalence is tested on this test set alone"
    if refusal or scope is None:
        text = f"No claim for {contrast.scope} about {_pair(claim)}{where}: {refusal}"
        return replace(claim, verdict="refused", text=text)
    mean = scope.mean if scope.mean is not None else c.mean
    evidence = signed_interval(mean, scope.low, scope.high, run.spec.level, run.scale)
    n = f"n = {c.n}" if contrast.scope != "new corpora" else scope.basis.split(",")[0]
    if contrast.margin is not None:
        return _worded_margin(claim, run, contrast.margin, where, evidence, n)
    tested = f", {'Holm ' if claim.family > 1 else ''}p {_equals(claim.adjusted)}" if claim.adjusted is not None else ""
    steps = claim.family - (open_ended if _is_exact(contrast) else 0)
    return _worded_difference(claim, c, run, where, mean, f"{evidence}{tested}, {n}", steps)


def _pair(claim: Claim) -> str:
    first, second = claim.sides
    return f"{first} against {second}" if first and second else claim.contrast.name


def _significant(claim: Claim, run: Run) -> bool:
    return claim.adjusted is not None and claim.adjusted <= run.spec.alpha


def _worded_margin(claim: Claim, run: Run, margin: float, where: str, evidence: str, n: str) -> Claim:
    first, second = claim.sides
    both = bool(first and second)
    within = f"within ± {points(margin, run.scale)}{where}"
    if _significant(claim, run):
        verdict = "equivalent"
        text = f"{first} and {second} are equal" if both else f"{claim.contrast.name}: zero"
    else:
        verdict = "undecided"
        text = f"{first} and {second} cannot be called equal"
        if not both:
            text = f"{claim.contrast.name}: cannot be called zero"
    detail = f"{evidence}, Holm p = {p_text(claim.adjusted)}, {n}"
    return replace(claim, verdict=verdict, text=f"{text} {within}", evidence=detail)


def _worded_difference(
    claim: Claim, c: Comparison, run: Run, where: str, mean: float, detail: str, steps: int
) -> Claim:
    contrast, (first, second) = claim.contrast, claim.sides
    plain = bool(first and second)
    if _significant(claim, run):
        good = (mean > 0) == run.higher_is_better(contrast.metric)
        size = points(abs(mean), run.scale)
        verb = "beats" if good else "is worse than"
        text = f"{first} {verb} {second}{where} by {size}"
        if not plain:
            text = f"{contrast.name}{where}: {'+' if mean > 0 else '−'}{size}"
        return replace(claim, verdict="better" if good else "worse", text=text, evidence=detail)
    beyond = contrast.scope in UNIT_COLUMN or contrast.scope == "new corpora"
    decided = decidability(c.n, steps, contrast.test, run.spec.alpha)
    if not decided.possible and not beyond:
        family = f" in a family of {claim.family}" if claim.family > 1 else ""
        return replace(
            claim,
            verdict="undecidable",
            text=f"{_pair(claim)}{where}: {decided.text}{family}",
            evidence=f"{detail}; {decided.why}",
        )
    text = f"{first} and {second} cannot be told apart{where}"
    if not plain:
        text = f"{contrast.name}{where}: cannot be told from zero"
    if c.detectable is not None and not beyond and contrast.test == "paired_t":
        detail += f"; {points(c.detectable, run.scale)} are found with 80 % power where studies vary as they did here"
    return replace(claim, verdict="undecided", text=text, evidence=detail)


def _equals(p: float | None) -> str:
    shown = p_text(p)
    return shown if shown.startswith("<") else f"= {shown}"


def claims_of(run: Run) -> list[Claim]:
    """All declared contrasts of a run, in the order of the space."""
    contrasts = [c for c in run.spec.contrasts if c.corpus in run.corpora or not run.corpora]
    # A joint claim over corpora is one claim, however many corpora carry it.
    units = [_unit_of(c) for c in contrasts]
    names = [c.family if run.spec.declared is None else "" for c in contrasts]  # one question is one family
    sizes: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(names):
        here = [(u, c.post_hoc) for u, c, n in zip(units, contrasts, names, strict=True) if n == name]
        timely, all_units = {u for u, late in here if not late}, {u for u, _ in here}
        sizes[name] = max(len(timely), run.spec.declared or 0), max(len(all_units), run.spec.ever)
    counts = Counts(run)
    found = _with_joint(
        run,
        [
            evaluate(run, c, counts, max(1, sizes[name][int(c.post_hoc)]))
            for c, name in zip(contrasts, names, strict=True)
        ],
    )
    corrected: dict[int, float | None] = {}
    for name, (declared, ever) in sizes.items():
        members = [i for i, c in enumerate(found) if run.spec.declared is not None or c.contrast.family == name]
        p_values = [_decisive(found[i]) for i in members]
        late = [found[i].contrast.post_hoc for i in members]
        corrected.update(zip(members, adjusted(p_values, late, declared, ever), strict=True))
    open_ended = sum(claim.p is not None and not _is_exact(claim.contrast) for claim in found)
    return [
        _worded(replace(claim, p=_decisive(claim), adjusted=corrected[i]), run, open_ended)
        for i, claim in enumerate(found)
    ]


def _is_exact(contrast: Contrast) -> bool:
    """Is the p of a contrast one of few values, of which the smallest depends on the number of studies?"""
    return contrast.test != "paired_t" and contrast.margin is None and contrast.scope == "this test set"


def _decisive(claim: Claim) -> float | None:
    if claim.contrast.scope == "this test set" and claim.interval is None:
        return None
    if claim.contrast.margin is not None and claim.differences:
        if claim.contrast.scope != "this test set":
            return None
        return equivalence(claim.differences, claim.contrast.margin)
    return claim.p


def _unit_of(contrast: Contrast) -> tuple[str, ...]:
    key = (contrast.name, contrast.metric, contrast.condition, contrast.scope)
    return key if contrast.scope == "new corpora" else (*key, contrast.corpus)


def _with_joint(run: Run, claims: list[Claim]) -> list[Claim]:
    """Contrasts that were made on several corpora get the joint estimate; those that claim new corpora become one."""
    groups: dict[tuple[str, ...], list[Claim]] = {}
    for claim in claims:
        c = claim.contrast
        groups.setdefault((c.name, c.metric, c.condition, c.scope), []).append(claim)
    found: list[Claim] = []
    for group in groups.values():
        if len(group) == 1 and group[0].contrast.scope != "new corpora":
            found += group
            continue
        held = next((claim for claim in group if claim.verdict == "withheld"), None)
        if held is not None:
            joined = group[0].contrast.scope == "new corpora"
            corpora = tuple(claim.contrast.corpus for claim in group)
            found += [replace(held, corpora=corpora)] if joined else group
            continue
        joint = _joint_scope(group, run.spec.level)
        if group[0].contrast.scope != "new corpora":
            found += [replace(claim, scopes=(*claim.scopes, joint)) for claim in group]
            continue
        each = tuple(
            replace(next(s for s in claim.scopes if s.name == "this test set"), name=claim.contrast.corpus)
            for claim in group
            if claim.scopes
        )
        lead = next((claim for claim in group if claim.comparison is not None), group[0])
        found.append(
            replace(lead, scopes=(joint, *each), p=joint.p, corpora=tuple(claim.contrast.corpus for claim in group))
        )
    return found
