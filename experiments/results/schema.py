"""The frozen schemas of everything that is written: the ledger's parts and the tables made from them.

A column's type never depends on the values that happen to be there: an all-null column keeps its type, and files
written by different runs can be read together. Columns may be added (nullable, at the end of their group), never
renamed or retyped; `VERSION` counts the additions and is stored in every file's metadata.

null means "not measured" or "not known yet"; NaN is refused wherever a number is written.

The tables of a run (`results/<space>/`), all sorted, all rebuilt at will from the ledger:

    trials.parquet        one row per planned slot; see `trials_schema`
    epochs.parquet        trial, epoch, split, metric, value
    scores.parquet        trial, condition, metric, value, n: the confirm stage's test scores under every condition
    decisions.parquet     every pruning and selection decision, with the numbers it was made from
    predictions/*.parquet one file per (corpus, cell): trial, condition, utterance, label, prediction, probabilities,
                          speaker, dialogue, lacking
    space.yaml            see `experiments.results.declared`

Tables join on `trial`. `trial` is null in trials.parquet until the slot's hyperparameters are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from experiments.slots import Scalar
from mer.errors import UserError
from mer.metrics import NAMES
from mer.sealed import Damaged

VERSION = 3
"""Version of the schemas, in every file's metadata under `mer.schema`. 2: `bundle` and `bundle_size`. 3: `declaration`
of a trial, `checkpoint_digest` in the ledger."""


class NewerSchema(UserError):
    """A file of a version of this project that is newer than this one. It is not damaged, and is left alone."""


def check_version(schema: pa.Schema, where: str) -> None:
    """Refuse a file whose schema has columns that this version does not know: reading would lose them.

    Older files are read: what they lack is null. A file without a version is of another maker.
    """
    text = (schema.metadata or {}).get(b"mer.schema", b"0")
    if not text.isdigit():
        raise Damaged(f"not written by mer: its schema has the version {text!r}", where=where)
    if (found := int(text)) > VERSION:
        raise NewerSchema(
            f"written by a newer version of mer (schema {found}, this one reads up to {VERSION})",
            where=where,
            hint="Update mer here: pip install --upgrade, or git pull and make setup.",
        )


METRICS = NAMES
"""The metrics that every trial reports, in the order of their columns."""

COMPLETE = "complete"
"""The name of the condition under which nothing is taken away from the test split: `test_<metric>`."""

SLOT = [
    pa.field("trial", pa.string()),
    pa.field("cell", pa.string(), nullable=False),
    pa.field("corpus", pa.string(), nullable=False),
    pa.field("study", pa.int32(), nullable=False),
    pa.field("fold", pa.int32(), nullable=False),
    pa.field("stage", pa.string(), nullable=False),
    pa.field("draw", pa.int32(), nullable=False),  # -1 in the confirm stage
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
]
"""The identity of a slot and how it ended: the first columns of trials.parquet."""

MEASURES = [
    *(pa.field(f"valid_{metric}", pa.float64()) for metric in METRICS),  # at the best epoch
    *(pa.field(f"test_{metric}", pa.float64()) for metric in METRICS),  # confirm stage, complete condition
    pa.field("selected", pa.bool_()),  # tune stage: is this draw the one that was confirmed? null until known
    pa.field("exempt", pa.bool_()),  # tune stage: was this draw exempt from pruning?
    pa.field("second_look", pa.bool_(), nullable=False),  # added to the plan after the first test score was seen
    pa.field("rung", pa.int32()),  # pruned: the epoch it was judged at,
    pa.field("rung_value", pa.float64()),  # what it had reached there,
    pa.field("cutoff", pa.float64()),  # and what it needed
    pa.field("bundle", pa.string()),  # the layout of the bundle that it was trained in; null: alone, or not known yet
    pa.field("bundle_size", pa.int32()),  # how many trials were trained in one step; costs are each one's share
]

COST = [
    pa.field("wall_s", pa.float64()),
    pa.field("device_s", pa.float64()),
    pa.field("epochs", pa.int32()),
    pa.field("best_epoch", pa.int32()),
    pa.field("peak_memory_mb", pa.float64()),
    pa.field("energy_j", pa.float64()),
    pa.field("attempt", pa.int32()),
]

PROVENANCE = [
    pa.field("commit", pa.string()),
    pa.field("dirty", pa.bool_()),
    pa.field("versions", pa.string()),  # "numpy 2.4.6; python 3.11.9; torch 2.13.0", sorted
    pa.field("code", pa.string()),  # digest of the source that the recipe's levels and the trainer import
    pa.field("data", pa.string()),  # digest of corpus content, split and masks
    pa.field("hardware", pa.string()),
    pa.field("host", pa.string()),
    pa.field("random_weights", pa.bool_()),
    pa.field("synthetic", pa.bool_()),
    pa.field("parameters", pa.int64()),
    pa.field("started", pa.timestamp("us", tz="UTC")),
    pa.field("ended", pa.timestamp("us", tz="UTC")),
]

FIXED = frozenset(field.name for field in [*SLOT, *MEASURES, *COST, *PROVENANCE])
"""Column names that no factor or hyperparameter may have."""

EPOCH_ROW = pa.struct(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # "train" | "valid"
        pa.field("metric", pa.string(), nullable=False),  # "loss", "lr", and METRICS
        pa.field("value", pa.float64(), nullable=False),
    ]
)
SCORE_ROW = pa.struct(
    [
        pa.field("condition", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
    ]
)
PREDICTION_ROW = pa.struct(
    [
        pa.field("condition", pa.string(), nullable=False),
        pa.field("utterance", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        # in the order of the corpus's labels, which the file's metadata names under `mer.labels`
        pa.field("probabilities", pa.list_(pa.float32())),
        pa.field("speaker", pa.string()),
        pa.field("dialogue", pa.string()),
        pa.field("lacking", pa.string()),  # modalities taken away, "+"-joined and sorted; "" where none
    ]
)
METRIC_VALUE = pa.struct([pa.field("metric", pa.string(), False), pa.field("value", pa.float64(), False)])


def _with_version(fields: Iterable[pa.Field]) -> pa.Schema:
    return pa.schema(list(fields), metadata={"mer.schema": str(VERSION)})


TRIAL_PART = _with_version(
    [
        pa.field("trial", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        # what the identity was made from, so that it can be checked and code versions declared equal
        pa.field("identity", pa.int32(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),  # canonical JSON, defaults left out
        pa.field("recipe_digest", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("data", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("study", pa.int32(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("root", pa.int64(), nullable=False),
        # what it was run for; another space may use the same trial under other names
        pa.field("space", pa.string()),
        pa.field("cell", pa.string()),
        pa.field("draw", pa.int32()),
        pa.field("declaration", pa.string()),  # the declaration under which it was run
        # what came out
        pa.field("valid", pa.list_(METRIC_VALUE)),
        pa.field("rung", pa.int32()),
        pa.field("rung_value", pa.float64()),
        pa.field("cutoff", pa.float64()),
        *(field for field in COST if field.name != "attempt"),
        *(field for field in PROVENANCE if field.name not in ("code", "data")),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("checkpoint", pa.string()),  # path below the results folder
        pa.field("checkpoint_digest", pa.string()),  # of its files: `mer.files.sums_digest`
        pa.field("curve", pa.list_(EPOCH_ROW)),
        pa.field("scores", pa.list_(SCORE_ROW)),
        pa.field("predictions", pa.list_(PREDICTION_ROW)),
    ]
)
"""One row per attempt at a trial: everything about it, so that one rename commits it."""

DECISIONS = _with_version(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("study", pa.int32(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # "keep" | "prune" | "select"
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("trial", pa.string()),
        pa.field("rung", pa.int32()),  # epoch; null for a selection
        pa.field("value", pa.float64()),  # of the draw that was judged or chosen
        pa.field("cutoff", pa.float64()),
        pa.field("peers", pa.int32()),  # how many draws it was compared with
        pa.field("reason", pa.string()),
    ]
)

EPOCHS = _with_version([pa.field("trial", pa.string(), nullable=False), *EPOCH_ROW])
SCORES = _with_version([pa.field("trial", pa.string(), nullable=False), *SCORE_ROW])
PREDICTIONS = _with_version([pa.field("trial", pa.string(), nullable=False), *PREDICTION_ROW])


def trials_schema(factors: Mapping[str, pa.DataType], hyperparameters: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema of trials.parquet: slot, factors, hyperparameters, measures, cost, provenance.

    The file's metadata says which columns are which (`mer.factors`, `mer.hyperparameters`: names, one a line).

    >>> trials_schema({"fusion": pa.string()}, {"optimizer.lr": pa.float64()}).names[8:12]
    ['reason', 'fusion', 'optimizer.lr', 'valid_wa']
    """
    own = [*factors, *hyperparameters]
    clash = sorted((set(own) & FIXED) | {name for name in own if own.count(name) > 1})
    if clash:
        raise UserError(
            f"the column name {clash[0]!r} is taken",
            expected="factors and hyperparameters named unlike each other and unlike the fixed columns",
            hint=f"Fixed columns: {', '.join(sorted(FIXED))}.",
        )
    fields = [
        *SLOT,
        *(pa.field(name, kind) for name, kind in factors.items()),
        *(pa.field(name, kind) for name, kind in hyperparameters.items()),
        *MEASURES,
        *COST,
        *PROVENANCE,
    ]
    schema = _with_version(fields)
    extra = {"mer.factors": "\n".join(factors), "mer.hyperparameters": "\n".join(hyperparameters)}
    return schema.with_metadata({**schema.metadata, **extra})


def column_type(values: Iterable[Scalar | None]) -> pa.DataType:
    """The one type that holds all of a factor's levels or all values of a hyperparameter.

    >>> str(column_type([0, 0.1])), str(column_type([True, False])), str(column_type(["none", 0.5]))
    ('double', 'bool', 'string')
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def as_type(value: Scalar | None, kind: pa.DataType) -> Scalar | None:
    """A value as its column's type wants it: `1` in a text column is `"1"`, `true` is `"true"`."""
    if value is None:
        return None
    if pa.types.is_string(kind) and not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if pa.types.is_floating(kind):
        return float(value)
    return value
