"""A run as Python sees it: its tables, scores paired by study, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.reporting.levels import named_level, show_level
from experiments.reporting.spec import Spec, read_spec
from experiments.reporting.statistics.paired import Comparison, compare
from mer import sealed
from mer.errors import UserError, unknown
from mer.files import plain
from mer.metrics import metric as metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.reporting.claims import Claim
    from experiments.reporting.tables.model import Table

Floats = npt.NDArray[np.float64]
COMPLETE = "complete"
COLUMNS = {
    "trials.parquet": ("trial", "cell", "corpus", "study", "fold", "stage", "draw", "status", "reason"),
    "epochs.parquet": ("trial", "epoch", "split", "metric", "value"),
    "scores.parquet": ("trial", "condition", "metric", "value"),
    "decisions.parquet": ("corpus", "cell", "study", "fold", "kind"),
}
"""The first columns of each table."""
PREDICTED = ["trial", "condition", "utterance", "label", "prediction"]


class Run:
    """The files of a run, read when asked for.

    trials     one row per planned slot
    confirm    the complete trials of the confirm stage: the only ones that enter a mean
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: Spec = read_spec(folder / "space.yaml")
        self.trials = self._read("trials.parquet", required=True)
        if self.trials.empty:
            raise UserError("trials.parquet has no rows", where=str(folder), expected="the tables of a run")
        self._imported = pd.DataFrame()
        if (folder / "imported").is_dir():
            self._add_imported()

    def _add_imported(self) -> None:
        """Imported predictions become confirm trials of a cell of their own."""
        from experiments.reporting.importing import imported_predictions, scores_of

        rows = imported_predictions(self)
        if rows.empty:
            return
        scores = scores_of(rows, self.metrics)
        trials = rows.drop_duplicates("trial")[["trial", "name", "corpus", "study", "fold"]].rename(
            columns={"name": "cell"}
        )
        trials = trials.assign(stage="confirm", draw=-1, status="complete", imported=True)
        complete = scores[scores["condition"] == COMPLETE].pivot_table(index="trial", columns="metric", values="value")
        trials = trials.merge(complete.add_prefix("test_"), left_on="trial", right_index=True, how="left")
        everything = pd.concat([self.trials, trials], ignore_index=True)
        own = everything["imported"].isna() if "imported" in everything else None
        everything["imported"] = False if own is None else ~own
        before = self._read("scores.parquet")
        for name in [n for n in vars(self) if isinstance(getattr(type(self), n, None), cached_property)]:
            del self.__dict__[name]  # what was computed without them
        self.trials = everything
        self._imported = rows
        self.__dict__["scores"] = pd.concat([before, scores], ignore_index=True) if len(before) else scores

    def _read(self, name: str, required: bool = False) -> pd.DataFrame:
        path = self.folder / name
        if not path.is_file():
            if required:
                raise UserError(f"no {name}", where=str(self.folder), expected="the folder of a run")
            return pd.DataFrame()
        frame: pd.DataFrame = sealed.of_a_run(plain(path).read_bytes(), str(path), COLUMNS[name]).to_pandas()
        return frame

    # ---- tables ----------------------------------------------------------------------------------------------

    @cached_property
    def epochs(self) -> pd.DataFrame:
        return self._read("epochs.parquet")

    @cached_property
    def scores(self) -> pd.DataFrame:
        return self._read("scores.parquet")

    @cached_property
    def decisions(self) -> pd.DataFrame:
        return self._read("decisions.parquet")

    @cached_property
    def confirm(self) -> pd.DataFrame:
        t = self.trials
        return t[(t["stage"] == "confirm") & (t["status"] == "complete")]

    # ---- names -----------------------------------------------------------------------------------------------

    @cached_property
    def corpora(self) -> list[str]:
        return list(dict.fromkeys(self.trials["corpus"]))

    @cached_property
    def factors(self) -> list[str]:
        """Factors with more than one level in the plan, in the order of the space."""
        names = [name for name in self.spec.factors if name in self.own.columns]
        return [name for name in names if self.own[name].nunique(dropna=False) > 1]

    @cached_property
    def _cells(self) -> dict[str, pd.DataFrame]:
        columns = list(dict.fromkeys(["corpus", "cell", *(n for n in self.spec.factors if n in self.trials)]))
        table = self.trials[columns].drop_duplicates(["corpus", "cell"])
        order = self._rank(table)
        table = table.iloc[order]
        return {c: table[table["corpus"] == c].set_index("cell", drop=False) for c in self.corpora}

    def _rank(self, table: pd.DataFrame) -> list[int]:
        """Cells in the order of the levels in the space (stable: else as planned)."""
        keys = []
        for name in reversed([n for n in self.spec.factors if n in table.columns]):
            position = {level: i for i, level in enumerate(self.levels(name))}
            keys.append([position.get(value, len(position)) for value in table[name].astype(object)])
        return [int(i) for i in np.lexsort(keys)] if keys else list(range(len(table)))

    def levels(self, factor: str) -> list[Any]:
        """Levels of a factor in the order of the space, as the column's type holds them; then any others."""
        column = self.trials[factor]
        present = [v for v in column.dropna().unique().tolist()]
        as_text = {str(v).lower() if isinstance(v, bool) else str(v): v for v in present}
        ordered = [level for level in self.spec.factors.get(factor, ()) if level in present]
        if not ordered:
            keys = [str(x).lower() if isinstance(x, bool) else str(x) for x in self.spec.factors.get(factor, ())]
            ordered = [as_text[key] for key in keys if key in as_text]
        return ordered + sorted((v for v in present if v not in ordered), key=str)

    def cells(self, corpus: str | None = None) -> list[str]:
        return list(self._cells[self.corpus(corpus)].index)

    def chosen(self, corpus: str) -> list[str]:
        """The cells that were to be run: none that a rule leaves out, and none that was imported."""
        return [c for c in self.cells(corpus) if c not in self.imported and (corpus, c) not in self.spec.excluded]

    def level_of(self, cell: str, factor: str, corpus: str | None = None) -> Any:
        value: Any = self._cells[self.corpus(corpus)].at[cell, factor]
        return None if pd.isna(value) else value

    def label(self, cell: str, corpus: str | None = None) -> str:
        """A cell's name as short as it can be: the levels of the factors that vary."""
        if not self.factors or cell in self.imported or cell not in self._cells[self.corpus(corpus)].index:
            return cell
        return " · ".join(named_level(self.level_of(cell, name, corpus), name) for name in self.factors)

    def corpus(self, name: str | None = None) -> str:
        if name is None:
            return self.corpora[0]
        if name not in self.corpora:
            raise unknown("corpus", name, self.corpora)
        return name

    def cell(self, which: str | Mapping[str, Any], corpus: str | None = None) -> str:
        """A cell by its name, its label, some of its levels (`{"fusion": "tacfn"}`) or one level where that is unique
        (`"tacfn"`); among several, the one that is otherwise the baseline."""
        corpus = self.corpus(corpus)
        table = self._cells[corpus]
        if isinstance(which, str):
            if which in table.index:
                return which
            by_label = [cell for cell in table.index if self.label(cell, corpus) == which]
            if len(by_label) == 1:
                return str(by_label[0])
            owners = [f for f in self.factors if which in [show_level(v, f) for v in self.levels(f)]]
            if not owners:
                raise unknown("cell", which, {*table.index, *(self.label(c, corpus) for c in table.index)})
            which = {owners[0]: which}
        return self._cell_with(which, table)

    def _cell_with(self, wanted: Mapping[str, Any], table: pd.DataFrame) -> str:
        def has(factor: str, level: Any) -> pd.Series[bool]:
            shown: pd.Series[str] = table[factor].map(lambda value: show_level(value, factor))
            return shown == show_level(level, factor)

        for factor, level in wanted.items():
            if factor not in table.columns:
                raise unknown("factor", factor, self.factors)
            found = table[has(factor, level)]
            if found.empty:
                raise unknown(f"level of {factor}", level, [show_level(v, factor) for v in self.levels(factor)])
            table = found
        for factor, level in self.spec.baseline.items():
            if len(table) > 1 and factor in table.columns and factor not in wanted:
                found = table[has(factor, level)]
                table = table if found.empty else found
        if len(table) != 1:
            raise UserError(
                f"{dict(wanted)!r} names {len(table)} cells",
                expected="one: give more of its levels, as in {'fusion': 'tacfn', 'pooling': 'mean'}",
            )
        return str(table.index[0])

    @property
    def baseline(self) -> dict[str, str]:
        """Corpus to the cell of the declared baseline, where there is one."""
        found = {}
        if self.spec.baseline:
            for corpus in self.corpora:
                try:
                    found[corpus] = self.cell(self.spec.baseline, corpus)
                except UserError:
                    continue
        return found

    @cached_property
    def imported(self) -> set[str]:
        """Cells that are somebody else's predictions."""
        return set(self.trials.loc[self.trials["imported"], "cell"]) if "imported" in self.trials.columns else set()

    @cached_property
    def single(self) -> set[str]:
        """Imported cells with one set of predictions for all studies: their own variation is unknown."""
        if self._imported.empty:
            return set()
        return set(self._imported.loc[self._imported["single"], "name"])

    @cached_property
    def own(self) -> pd.DataFrame:
        """The planned slots: all trials but imported ones."""
        return self.trials[~self.trials["imported"]] if "imported" in self.trials.columns else self.trials

    @cached_property
    def taken_known(self) -> dict[tuple[str, str, str], Mapping[str, float] | None]:
        """What `experiments.reporting.rates` has found out."""
        return {}

    def diverged(self, corpus: str) -> set[str]:
        """Cells of which a study diverged: their means are over the studies that went well."""
        t = self.own
        return set(t.loc[(t["corpus"] == corpus) & (t["stage"] == "confirm") & (t["status"] == "diverged"), "cell"])

    def unfinished(self, corpus: str) -> set[str]:
        """Cells with planned studies that have not been run yet: a difference to them would be a look beforehand."""
        t = self.own
        return set(t.loc[(t["corpus"] == corpus) & (t["stage"] == "confirm") & (t["status"] == "missing"), "cell"])

    @cached_property
    def draws_each(self) -> int:
        """Draws of a cell and study as planned; 0 where nothing was tuned."""
        tune = self.trials[self.trials["stage"] == "tune"]
        return int(tune["draw"].max()) + 1 if len(tune) else 0

    # ---- scores ----------------------------------------------------------------------------------------------

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics with a test score, the declared one first."""
        columns = [c.removeprefix("test_") for c in self.trials.columns if c.startswith("test_")]
        found = [m for m in columns if self.confirm[f"test_{m}"].notna().any()]
        return sorted(found, key=lambda m: (m != self.spec.metric, columns.index(m)))

    @cached_property
    def conditions(self) -> list[str]:
        """Conditions with scores, in the order of the space, the complete one first."""
        present = set(self.scores["condition"].unique()) if len(self.scores) else set()
        declared = [c.name for c in self.spec.conditions if c.name in present or c.name == COMPLETE]
        return [*dict.fromkeys([COMPLETE, *declared]), *sorted(present - set(declared) - {COMPLETE})]

    @cached_property
    def _by_slot(self) -> dict[tuple[str, str], pd.DataFrame]:
        """(condition, metric) to confirmed test scores with corpus, cell, study, fold."""
        slots = self.confirm[["trial", "corpus", "cell", "study", "fold"]]
        found = {}
        for metric in self.metrics:
            column = self.confirm[f"test_{metric}"]
            found[COMPLETE, metric] = slots.assign(value=column)[column.notna().to_numpy()]
        if len(self.scores):
            joined = slots.merge(self.scores[["trial", "condition", "metric", "value"]], on="trial")
            for condition in sorted(joined["condition"].unique()):
                here = joined[joined["condition"] == condition]
                for metric in sorted(here["metric"].unique()):
                    found[condition, metric] = here[here["metric"] == metric]
        return found

    def by_fold(self, corpus: str | None = None, metric: str | None = None, condition: str = COMPLETE) -> pd.DataFrame:
        """Scores [cell, (study, fold)]; NaN where a confirm slot has no result."""
        corpus, metric = self.corpus(corpus), metric or self.spec.metric
        part = self._by_slot.get((condition, metric))
        cells = self.cells(corpus)
        t = self.trials
        planned = t[(t["stage"] == "confirm") & (t["corpus"] == corpus)]
        slots = pd.MultiIndex.from_frame(planned[["study", "fold"]].drop_duplicates().sort_values(["study", "fold"]))
        if part is None:
            return pd.DataFrame(np.nan, index=cells, columns=slots)
        wide = part[part["corpus"] == corpus].pivot_table(index="cell", columns=["study", "fold"], values="value")
        return wide.reindex(index=cells, columns=slots).astype(float)

    def by_study(self, corpus: str | None = None, metric: str | None = None, condition: str = COMPLETE) -> pd.DataFrame:
        """Scores [cell, study], averaged over folds; a study that lacks a fold is NaN as a whole."""
        key = (self.corpus(corpus), metric or self.spec.metric, condition)
        if key not in self._by_study:
            wide = self.by_fold(*key)
            studies = wide.columns.get_level_values("study")
            self._by_study[key] = pd.DataFrame(
                {s: wide.loc[:, studies == s].mean(axis=1, skipna=False) for s in dict.fromkeys(studies)},
                index=wide.index,
            )
        return self._by_study[key]

    @cached_property
    def _by_study(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        return {}

    def predictions(self, corpus: str, cell: str, condition: str = COMPLETE) -> pd.DataFrame:
        """Test predictions of a cell's confirm trials with study and fold; empty where none were kept."""
        import pyarrow.compute as pc
        import pyarrow.dataset as ds

        if cell in self.imported:
            rows = self._imported
            keep = (rows["corpus"] == corpus) & (rows["name"] == cell) & (rows["condition"] == condition)
            return rows.loc[keep, ["trial", "utterance", "label", "prediction", "speaker", "dialogue", "study", "fold"]]
        wanted = self.confirm[(self.confirm["corpus"] == corpus) & (self.confirm["cell"] == cell)]
        folder = self.folder / "predictions"
        names = ["trial", "utterance", "label", "prediction", "speaker", "dialogue", "lacking"]
        empty = pd.DataFrame(columns=names)
        if wanted.empty or not folder.is_dir():
            return empty
        files = self._prediction_files
        if not files:
            return empty
        keep = pc.field("trial").isin(wanted["trial"].tolist()) & (pc.field("condition") == condition)
        frame: pd.DataFrame = ds.dataset(files).to_table(columns=names, filter=keep).to_pandas()
        return frame.merge(wanted[["trial", "study", "fold"]], on="trial")

    @cached_property
    def _prediction_files(self) -> list[str]:
        """Every file of predictions, proven whole."""
        files = sorted(p for p in (self.folder / "predictions").glob("*.parquet") if not p.name.startswith("_"))
        for path in files:
            sealed.of_a_run(plain(path).read_bytes(), str(path), PREDICTED)
        return [str(path) for path in files]

    # ---- questions -------------------------------------------------------------------------------------------

    def pivot(
        self,
        rows: str | Sequence[str] = "cell",
        columns: str | Sequence[str] | None = None,
        metric: str | None = None,
        condition: str | None = None,
        statistic: Any = "mean",
    ) -> pd.DataFrame:
        """Confirmed test scores by factors, `corpus`, `study`, `fold`, `condition`; `statistic`: mean, std, count, ...

        >>> run.pivot("fusion", "condition")            # doctest: +SKIP
        """
        metric = metric or self.spec.metric
        conditions = [condition] if condition else self.conditions
        if condition is None and "condition" not in [rows, columns] and "condition" not in [*rows, *(columns or ())]:
            conditions = [COMPLETE]
        parts = [self._by_slot[c, metric].assign(condition=c) for c in conditions if (c, metric) in self._by_slot]
        if not parts:
            raise unknown("metric", metric, {m for _, m in self._by_slot})
        long = pd.concat(parts)[["trial", "value", "condition"]].merge(
            self.confirm[[*dict.fromkeys(["trial", "corpus", "cell", "study", "fold", *self.spec.factors])]], on="trial"
        )
        for name in [rows, columns] if isinstance(rows, str) else [*rows, columns]:
            if isinstance(name, str) and name not in long.columns:
                raise unknown("column", name, long.columns)
        return long.pivot_table(index=rows, columns=columns, values="value", aggfunc=statistic, sort=False)

    def compare(
        self,
        a: str | Mapping[str, Any],
        b: str | Mapping[str, Any],
        metric: str | None = None,
        condition: str = COMPLETE,
        corpus: str | None = None,
        test: str = "paired_t",
    ) -> Comparison:
        """a - b over the studies that both have."""
        corpus = self.corpus(corpus)
        scores = self.by_study(corpus, metric, condition)
        pair = scores.loc[[self.cell(a, corpus), self.cell(b, corpus)]].dropna(axis=1)
        if pair.shape[1] == 0:
            raise UserError("the two cells have no study in common", hint="See the accounting of the run.")
        first, second = pair.to_numpy()
        one, other = map(str, pair.index)
        return self.paired(one, other, first, second, test=test, metric=metric)

    def paired(
        self, a: str, b: str, first: Floats, second: Floats, test: str = "paired_t", metric: str | None = None
    ) -> Comparison:
        """Scores of a cell minus those of another, in the same studies. One set of imported predictions that stands in
        every study gets no p: how much that system varies is not known."""
        level, higher = self.spec.level, self.higher_is_better(metric)
        found = compare(first, second, test=test, level=level, higher_is_better=higher)
        return replace(found, p=None) if {a, b} & self.single else found

    @cached_property
    def claims(self) -> list[Claim]:
        from experiments.reporting.claims import claims_of

        return claims_of(self)

    @cached_property
    def tables(self) -> dict[str, Table]:
        from experiments.reporting.tables import tables_of

        return {table.name: table for table in tables_of(self)}

    def figure(self, name: str, **options: Any) -> Figure:
        """A figure by name; see `experiments.reporting.figures.FIGURES`."""
        from experiments.reporting.figures import draw

        return draw(self, name, **options)

    # ---- what a reader must know -----------------------------------------------------------------------------

    def second_look(self, corpus: str | None = None) -> bool:
        """Whether studies or draws were added after the first test score was seen."""
        t = self.trials
        if "second_look" not in t.columns:
            return False
        seen = t["second_look"] if corpus is None else t.loc[t["corpus"] == corpus, "second_look"]
        return bool(seen.fillna(False).any())

    @property
    def scale(self) -> float:
        """What scores are multiplied by where they are shown."""
        return metric_of(self.spec.metric).scale

    def metric_name(self, metric: str | None = None) -> str:
        return metric_of(metric or self.spec.metric).printed

    def higher_is_better(self, metric: str | None = None) -> bool:
        """Of the run's metric, or of another."""
        return metric_of(metric or self.spec.metric).higher_is_better


def load_run(path: str | Path) -> Run:
    """Open the folder of a run.

    >>> load_run("results/quickstart").compare("tacfn", "concat")   # doctest: +SKIP
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r}", expected="the folder of a run, such as results/quickstart")
    return Run(folder)
