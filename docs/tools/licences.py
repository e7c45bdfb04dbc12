"""The licences of everything that is installed with the project, from the packages' own metadata."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires

from packaging.requirements import Requirement

INTRODUCTION = """\
# Licences

The project is Apache-2.0. What it needs at run time, directly or through what it needs, has licences of its own; the
table is made from the metadata of the pinned versions (`constraints.txt`). None of it is copied into the project.

What is only used to develop, test and document (`dev`, `docs`) or on request (`segment`, `umap`) is listed below it. On
a machine with an NVIDIA GPU PyTorch brings NVIDIA's libraries, under NVIDIA's licences.
"""

WEIGHTS = """\
## Weights and corpora

Encoders that you ask for are downloaded from their publishers, under their licences; none is part of the project.

| encoder | weights | licence, as its publisher states it |
|---|---|---|
| `phobert` | `vinai/phobert-base-v2` | AGPL-3.0 |
| `videberta` | `Fsoft-AIC/videberta-base` | see its model card |
| `xlsr` | `facebook/wav2vec2-large-xlsr-53` | Apache-2.0 |
| `wav2vec2` | `facebook/wav2vec2-base` | Apache-2.0 |
| `hubert` | `facebook/hubert-base-ls960` | Apache-2.0 |
| `wavlm` | `microsoft/wavlm-base-plus` | see its model card |
| `whisper` | `openai/whisper-small` | Apache-2.0 |
| `phowhisper` | `vinai/PhoWhisper-small` | BSD-3-Clause |
| `vggish` | `harritaylor/torchvggish` | Apache-2.0 |
| `hf_text`, `llm_context` | your `checkpoint` | its own |

Licences change; look at the model's page before you publish what was made with it. Corpora are licensed by their
makers.
"""

PLAIN = {
    "apache": "Apache-2.0", "mit": "MIT", "bsd": "BSD", "isc": "ISC", "psf": "PSF-2.0", "python software": "PSF-2.0",
    "mozilla": "MPL-2.0", "mpl": "MPL-2.0", "lgpl": "LGPL", "unlicense": "Unlicense", "zlib": "Zlib",
}  # fmt: skip
OF_THE_GPU = ("nvidia-", "cuda-", "triton")
OPTIONAL = ("segment", "umap", "dev", "docs")
PROJECT = "mer-ablation"


def page() -> str:
    """Run-time packages first, then the others."""
    needed = closure(direct(PROJECT, None))
    others = closure({name for extra in OPTIONAL for name in direct(PROJECT, extra)}) - needed
    parts = [
        INTRODUCTION,
        table(needed),
        "## Only for developing, documenting, or on request\n",
        table(others),
        WEIGHTS,
    ]
    return "\n".join(parts)


def table(names: set[str]) -> str:
    listed = [name for name in sorted(names) if not name.startswith(OF_THE_GPU)]
    rows = [
        f"| {found.name} | {found.version.partition('+')[0]} | {licence(found)} |"
        for found in map(distribution, listed)
    ]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows, ""])


def direct(name: str, extra: str | None) -> set[str]:
    """What a package asks for here: always (`extra` None), or because of one of its extras."""
    found = set()
    for requirement in map(Requirement, requires(name) or ()):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if extra is None else not always and marker is not None and marker.evaluate({"extra": extra})
        if wanted and _installed(requirement.name):
            found.add(requirement.name.lower().replace("_", "-"))
    return found


def closure(names: set[str]) -> set[str]:
    """Names with all that they need, as far as it is installed; extras that were asked for (`ray[tune]`) included."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        extras = [None, *EXTRAS_ASKED.get(name, ())]
        pending += [other for extra in extras for other in direct(name, extra)]
    return found


EXTRAS_ASKED = {"ray": ("default", "tune"), "moto": ("s3", "server")}


def licence(found: Distribution) -> str:
    """The licence expression, else the classifiers, else the first line of the licence field."""
    about = found.metadata
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    named = [name for name in classifiers if name != "OSI Approved"]
    if named:
        return ", ".join(dict.fromkeys(map(_plain, named)))
    first = (about.get("License") or "").strip().split("\n")[0]
    return _plain(first) if first else "not stated in its metadata"


def _plain(text: str) -> str:
    found = next((plain for key, plain in PLAIN.items() if re.search(rf"\b{key}", text.lower())), None)
    return found or text


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
