"""From the name of a space to its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.slots import Cell, Scalar
from experiments.space import bundles, checks, contrasts
from experiments.space.conditions import conditions_of
from experiments.space.design import (
    Factor,
    baseline_of,
    cell_name,
    check_selection,
    combinations,
    matches,
    read_factors,
)
from experiments.space.find import find_space
from experiments.space.includes import load_with_includes, shown
from experiments.space.layers import Layer, canonical, merge, validate
from experiments.space.model import Space, Tune
from experiments.space.order import balanced
from experiments.space.plan import (
    CorpusRef,
    Folds,
    Limits,
    Plan,
    Resources,
    Tuning,
)
from experiments.space.read import read_space
from experiments.space.sets import apply_sets
from experiments.space.tuned import Tuned, check_groups
from experiments.space.yaml_text import Document
from mer.errors import UserError, unknown
from mer.names import fault

MAX_TRIALS = 1_000_000
"""A hundred times what was measured; a plan beyond it would exhaust the driver before its first trial."""

OpenCorpus = Callable[[str], CorpusRef]


def open_named_corpus(name: str) -> CorpusRef:
    from mer.data.places import address_of, find_corpus

    folder = find_corpus(name)
    return checks.corpus_ref(folder, address_of(name, folder))


def make_plan(
    space: str | Path,
    *,
    data: Sequence[str] = (),
    sets: Sequence[str] = (),
    only: Sequence[str] = (),
    seed: int = 0,
    open_corpus: OpenCorpus = open_named_corpus,
) -> Plan:
    """Read, check and order a space.

    data   corpora in place of the space's own
    sets   `key=value`: a key of the space (`tune.draws=16`) or of the recipe (`optimizer.lr=1e-3`)
    only   `factor=level,level`: keep these cells alone
    """
    path = find_space(str(space))
    document = load_with_includes(path)
    if not isinstance(document.data, dict):
        raise UserError("expected a mapping with corpora, base, factors, ...", where=shown(path))
    fixed = apply_sets(document, sets)
    if data:
        document.put(("corpora",), Document(list(data), {(): "--data"}))
    options = (*(f"--only {text}" for text in only), *(f"--set {text}" for text in sets))
    plan = _Planner(path.stem, document, fixed, only, seed, open_corpus).plan()
    return replace(plan, options=(*options, f"--seed seed={seed}") if seed else options)


class _Planner:
    def __init__(
        self, name: str, document: Document, fixed: Layer, only: Sequence[str], seed: int, open_corpus: OpenCorpus
    ) -> None:
        self.name, self.document, self.fixed, self.only, self.seed = name, document, fixed, only, seed
        self.space: Space = read_space(document)
        self.factors: Mapping[str, Factor] = read_factors(self.space, document)
        self.baseline = baseline_of(self.space, self.factors, document)
        self.base = Layer.of(document.part("base"), "base")
        self.open_corpus = open_corpus
        self.random_encoders: dict[str, None] = {}
        self.outside: dict[str, None] = {}

    def plan(self) -> Plan:
        space, document = self.space, self.document
        corpora = self._corpora()
        levels = self._combinations()
        cells = [self._cell(labels, corpus) for labels in levels for corpus in corpora.values()]
        self._refuse_duplicates(cells)
        self._refuse_idle_corpora(cells, corpora)
        tuned = Tuned(space.tune, document, self.factors, self.fixed)
        hypers = {(cell.corpus, cell.name): tuned.of(cell) for cell in cells if cell.skip is None}
        check_groups(cells, hypers, document.where("tune", "per"))
        conditions = conditions_of(space, document, corpora)
        declared, notices = contrasts.expand(
            space, document, self.factors, self.baseline, cells, conditions
        ) if "contrasts" in document.data else ([], [])  # fmt: skip
        folds = Folds()
        if space.folds is not None:
            count = checks.fold_count(space.folds.by, space.folds.count, list(corpora.values()))
            folds = Folds(space.folds.by, count)
        bundling, bundled, alone = bundles.choose(space.bundle, cells, corpora)
        gpus = space.resources.gpus
        plan = Plan(
            space=self.name,
            cells=tuple(cells),
            corpora=corpora,
            studies=space.studies.count,
            root_seed=self.seed,
            folds=folds,
            resplit=space.studies.resplit,
            tuning=_tuning(space.tune),
            bundling=bundling,
            bundled=bundled,
            alone=alone,
            hypers=hypers,
            conditions=conditions,
            contrasts=tuple(declared),
            baseline=self.baseline,
            factors={name: factor.labels for name, factor in self.factors.items()},
            metric=space.metric,
            resources=Resources(space.resources.cpus, None if gpus == "auto" else gpus, space.resources.memory),
            limits=Limits(space.limits.time, space.limits.trials, space.limits.price_per_hour, space.limits.currency),
            keep=space.keep,
            alpha=space.contrasts.alpha,
            expected_sd=space.contrasts.sd,
            notices=(*self._notices(corpora), *notices),
            document=document.data,
        )
        self._check_names(plan)
        self._check_size(plan)
        checks.check_masks(plan)
        return plan

    def _check_names(self, plan: Plan) -> None:
        """Names are shown in tables and figures: each must be one that can be."""
        document = self.document
        named: list[tuple[str, str, tuple[str, ...]]] = [("space", self.name, ())]
        for name, factor in self.factors.items():
            named.append(("factor", name, ("factors", name)))
            named += [("level", label, ("factors", name)) for label in factor.labels if isinstance(label, str)]
        named += [("condition", condition.name, ("conditions",)) for condition in plan.conditions]
        named += [
            ("contrast", name, ("contrasts",)) for name in {c.name for c in self.space.contrasts.compare if c.name}
        ]
        named += [("contrast's family", self.space.contrasts.family, ("contrasts",))]
        for cell in plan.cells:
            encoders: Any = cell.recipe["encoders"]
            named += [("modality", name, ("base",)) for name in encoders]
        for kind, name, at in dict.fromkeys(named):
            if wrong := fault(name):
                raise UserError(f"the {kind} {name[:40]!r} {wrong}", where=document.where(*at))

    def _check_size(self, plan: Plan) -> None:
        trials = plan.n_slots
        if trials > MAX_TRIALS:
            tune, confirm = plan.counts().values()
            product = f"{len(plan.cells)} cells x {plan.studies} studies x {plan.folds.count} folds"
            raise UserError(
                f"the plan has {trials} trials: {confirm} to confirm ({product}) and {tune} to tune "
                f"({plan.tuning.draws} draws each)",
                where=self.document.where(),
                expected=f"at most {MAX_TRIALS}",
            )

    # ---- corpora and cells -------------------------------------------------------------------------------------

    def _corpora(self) -> dict[str, CorpusRef]:
        found: dict[str, CorpusRef] = {}
        for index, name in enumerate(self.space.corpora):
            try:
                ref = self.open_corpus(name)
            except UserError as error:
                if error.where is not None or type(error) is not UserError:
                    raise
                where = self.document.where("corpora", index)
                raise UserError(error.problem, where=where, expected=error.expected, nearest=error.nearest) from None
            if ref.name in found:
                raise UserError(f"two corpora are called {ref.name!r}", where=self.document.where("corpora", index))
            found[ref.name] = ref
        return found

    def _combinations(self) -> list[dict[str, Scalar]]:
        found = combinations(self.space.design, self.factors, self.baseline, self.document)
        for index, rule in enumerate(self.space.exclude):
            check_selection(rule.when, self.factors, self.document, "exclude", index, "when")
        first = found.index(self.baseline) if self.baseline in found else 0
        ordered = [found[index] for index in balanced(found, first)]
        kept = self._kept()
        ordered = [labels for labels in ordered if all(str(labels[f]) in names for f, names in kept.items())]
        if not ordered:
            raise UserError("no cell is left", where=f"--only {' '.join(self.only)}")
        return ordered

    def _kept(self) -> dict[str, set[str]]:
        kept: dict[str, set[str]] = {}
        for text in self.only:
            name, equals, names = text.partition("=")
            where = f"--only {text}"
            if not equals:
                raise UserError("expected factor=level,level", where=where)
            if name not in self.factors:
                raise unknown("factor", name, self.factors, where)
            known = {str(label) for label in self.factors[name].labels}
            for label in names.split(","):
                if label not in known:
                    raise unknown(f"level of factor {name}", label, known, where)
            kept[name] = set(names.split(","))
        return kept

    def _cell(self, levels: dict[str, Scalar], corpus: CorpusRef) -> Cell:
        layers = [self.base, *self._space_layers(), *(self.factors[n].levels[label] for n, label in levels.items())]
        data, sources = merge([*layers, self.fixed])
        data = canonical(data, sources)
        if not data.get("encoders"):
            raise UserError("the recipe has no encoders", where=self.document.where("base"))
        valid = validate(data, sources)
        recipe = valid.model_dump(mode="json")
        skip = next(
            (f"excluded: {rule.reason}" for rule in self.space.exclude if matches(levels, rule.when)), None
        ) or checks.obstacle(recipe, corpus)
        for name in checks.apply_weights(recipe, self.space.weights, corpus):
            self.random_encoders[name] = None
        for name in checks.outside_levels(valid):
            self.outside[name] = None
        name = cell_name(levels, self.baseline, self.space.design)
        return Cell(corpus.name, name, levels, recipe, sources, skip, self._tuning(levels, name))

    def _space_layers(self) -> list[Layer]:
        """What the space's own keys say of the recipe."""
        layers = []
        for key, path, value in (
            ("metric", "training.metric", self.space.metric),
            ("resources", "training.threads", self.space.resources.threads),
        ):
            if key in self.document.data and path not in self.base.values:
                layers.append(Layer(key, {path: value}, {path: self.document.where(key) or key}))
        return layers

    def _tuning(self, levels: Mapping[str, Scalar], name: str) -> str:
        per = self.space.tune.per
        if per is None:
            return name
        for index, factor in enumerate(per):
            if factor not in self.factors:
                raise unknown("factor", factor, self.factors, self.document.where("tune", "per", index))
        return " ".join(f"{factor}={levels[factor]}" for factor in per) or "all cells"

    def _refuse_idle_corpora(self, cells: Sequence[Cell], corpora: Mapping[str, CorpusRef]) -> None:
        for corpus in corpora.values():
            reasons = {cell.skip for cell in cells if cell.corpus == corpus.name}
            if None not in reasons:
                raise UserError(
                    f"no cell of space {self.name!r} can be run on corpus {corpus.name!r}",
                    where=self.document.where("corpora"),
                    hint="\n  ".join(sorted(str(reason) for reason in reasons)[:5]),
                )

    def _refuse_duplicates(self, cells: Sequence[Cell]) -> None:
        import json

        seen: dict[tuple[str, str], Cell] = {}
        for cell in cells:
            if cell.skip is not None:
                continue
            key = (cell.corpus, json.dumps(cell.recipe, sort_keys=True))
            other = seen.setdefault(key, cell)
            if other is not cell:
                raise UserError(
                    f"cells {other.name!r} and {cell.name!r} are the same recipe",
                    where=self.document.where("factors"),
                    hint="Give one of them another `replica` if they are meant to be the same.",
                )

    def _notices(self, corpora: Mapping[str, CorpusRef]) -> list[str]:
        notices = []
        if self.random_encoders:
            names = ", ".join(self.random_encoders)
            notices.append(f"RANDOM WEIGHTS: {names} are tiny and untrained here; their numbers say nothing about them")
        notices += [
            f"corpus {ref.name} is SYNTHETIC; its numbers say nothing about people"
            for ref in corpora.values()
            if ref.synthetic
        ]
        notices += [f"{name} comes from outside this project and will be imported" for name in self.outside]
        if self.space.tune.once:
            notices.append("tuned once: every claim is 'given these hyperparameters'")
        return notices


def _tuning(tune: Tune) -> Tuning:
    asha = tune.pruner.asha
    return Tuning(
        draws=tune.draws,
        once=tune.once,
        per=None if tune.per is None else tuple(tune.per),
        sampler=tune.sampler,
        batch=tune.batch,
        startup=tune.startup,
        pruner="none" if asha is None else "asha",
        grace=Tuning.grace if asha is None else asha.grace,
        eta=Tuning.eta if asha is None else asha.eta,
        exempt=tune.exempt,
    )
