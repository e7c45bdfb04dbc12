"""What makes two trials the same trial: recipe, code, data, study, fold, stage and the root of the random streams.

    trial = first 16 hex digits of blake2b(version, recipe digest, code digest, data fingerprint, corpus, study, ...)

No cell name, host, number of workers or path is in it: a space is a view, and what another space has run counts.
The corpus's *name* is in it because the random streams are functions of it; its content is in `data`.
`VERSION` counts changes of this scheme: records of another version are kept and never mistaken for one's own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results.closure import code_digest
from experiments.space.conditions import condition_name
from mer import levels
from mer.errors import UserError

if TYPE_CHECKING:
    from experiments.space.plan import Condition
    from mer.recipe import Recipe

VERSION = 1

TRAINER = (
    "mer.training", "mer.evaluation", "mer.streams", "mer.data.folds", "mer.data.loading",
    "mer.data.corpus:load_corpus", "mer.data.store.shared:open_features", "mer.data.missing:availability",
)  # fmt: skip
"""What every trial runs, whatever its levels: whole modules, and definitions in modules that hold others' too."""

CONDITIONS = tuple(
    f"mer.data.missing:{name}"
    for name in ("everything", "at_random", "at_rates", "one_pattern", "sample_of_patterns", "from_file")
)
"""The protocols that test-time conditions are made of, which no recipe names."""

BUNDLE = ("mer.bundle.trainer",)
"""And what a trial of a bundle runs besides."""


@dataclass(frozen=True, slots=True)
class TrialKey:
    """Everything that can change a trial's numbers."""

    recipe: str
    code: str
    data: str
    corpus: str
    study: int
    fold: int
    stage: str
    root: int
    version: int = VERSION

    @property
    def trial(self) -> str:
        """The trial's name: 16 hex digits.

        >>> TrialKey("r", "c", "d", "demo", 0, 0, "tune", 0).trial
        '4caba1c05006c953'
        """
        parts = (
            self.version, self.recipe, self.code, self.data, self.corpus, self.study, self.fold, self.stage, self.root
        )  # fmt: skip
        return hashlib.blake2b(canonical(parts).encode(), digest_size=8).hexdigest()


def canonical(value: Any) -> str:
    """JSON with one spelling for each value: sorted keys, `1.0` for every float that is one, no NaN.

    >>> canonical({"b": 1e-4, "a": (1, 1.0, -0.0)})
    '{"a":[1,1.0,0.0],"b":0.0001}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{value} in something that names a trial", expected="a finite number")
        return value + 0.0  # -0.0 and 0.0 are one value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def recipe_text(recipe: Recipe) -> str:
    """A recipe minus its defaults, as canonical JSON: what its digest is taken of and what the ledger keeps."""
    return canonical(recipe.canonical())


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def level_names(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Kind and name of every level that a recipe names."""
    return tuple((kind, name) for _, kind, name in recipe.named_levels())


def level_targets(recipe: Recipe) -> tuple[str, ...]:
    """The `module:attr` of every level a recipe names, found without importing any of them."""
    found = {levels.table(levels.KINDS[kind][0]).get(name, name) for kind, name in level_names(recipe)}
    return tuple(sorted(found))


def recipe_code(recipe: Recipe) -> str:
    """The code digest of a recipe: of its levels, of the trainer, and of what they use of this project."""
    return code_digest(*code_roots(recipe))


def code_roots(recipe: Recipe) -> tuple[tuple[str, ...], frozenset[str]]:
    """Where the search for a recipe's code begins, and the packages that it stays in."""
    targets = level_targets(recipe)
    bundle = () if recipe.bundle is None else BUNDLE
    return (*TRAINER, *CONDITIONS, *bundle, *targets), _packages(targets)


def _packages(targets: Iterable[str]) -> frozenset[str]:
    return frozenset({"mer", *(target.partition(".")[0].partition(":")[0] for target in targets)})


def masks_digest(missing: Mapping[str, Any], folder: Path) -> str:
    """Of what is in the file of masks that a missing protocol names, for a corpus; "" where it names none."""
    if missing.get("protocol") != "file":
        return ""
    from mer.data.mask_files import file_digest
    from mer.recipe import MissingConfig

    return file_digest(MissingConfig.model_validate(dict(missing), strict=False), folder) or ""


def condition_key(condition: Condition, folder: Path) -> str:
    """What the ledger calls a condition: its name, with a digest of what it means unless the name says all of that. So
    scores are never taken for those of another condition of the same name."""
    missing = condition.missing
    protocol, masks = str(missing.get("protocol", "")), masks_digest(missing, folder)
    if condition.name == condition_name(missing) and not masks and ":" not in protocol:
        return condition.name
    code = code_digest([protocol], _packages([protocol])) if ":" in protocol else ""
    return f"{condition.name} #{digest(canonical([masks or missing, code]))[:8]}"


class Identifier:
    """Names the trials of a plan; remembers the code digest of each set of levels, since it reads files.

    `equal_code` are the accepted equalities (`mer accept-code`): digest to the digest that it counts as.
    """

    def __init__(self, equal_code: Mapping[str, str] | None = None) -> None:
        self._equal = dict(equal_code or {})
        self._codes: dict[tuple[bool, tuple[tuple[str, str], ...]], str] = {}

    def key(self, recipe: Recipe, *, data: str, corpus: str, study: int, fold: int, stage: str, root: int) -> TrialKey:
        return TrialKey(digest(recipe_text(recipe)), self.code(recipe), data, corpus, study, fold, str(stage), root)

    def code(self, recipe: Recipe) -> str:
        names = (recipe.bundle is not None, level_names(recipe))
        if names not in self._codes:
            self._codes[names] = resolve_equal(recipe_code(recipe), self._equal)
        return self._codes[names]


def resolve_equal(code: str, equal: Mapping[str, str]) -> str:
    """Follow accepted equalities to the digest that the trials are recorded under; a circle ends where it began."""
    seen: set[str] = set()
    while code in equal and code not in seen:
        seen.add(code)
        code = equal[code]
    return code


def chain(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """`mer accept-code OLD NEW` as a mapping new -> old: what is run with NEW is named as it was with OLD.

    >>> chain([("a", "b"), ("b", "c")])
    {'b': 'a', 'c': 'b'}
    """
    return {new: old for old, new in pairs if new != old}
