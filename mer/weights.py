"""Obtaining weights: from the Hugging Face hub or a local path, pinned, and never something else instead.

Pretrained weights and random ones are different things. Where the ones that were asked for cannot be had, this
module says what was tried and what to do; it never falls back.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mer.errors import UserError
from mer.files import plain, state_of

if TYPE_CHECKING:
    from mer.recipe import EncoderConfig

PINNED: dict[str, tuple[str, str | None]] = {
    # level: (checkpoint, commit). None: no commit is known here; the one that `main` means is resolved on download,
    # is part of the features' identity, and should be written into the recipe as `revision`.
    "phobert": ("vinai/phobert-base-v2", "e2375d266bdf39c6e8e9a87af16a5da3190b0cc8"),
    "videberta": ("Fsoft-AIC/videberta-base", None),
    "xlsr": ("facebook/wav2vec2-large-xlsr-53", "c3f9d884181a224a6ac87bf8885c84d1cff3384f"),
    "wav2vec2": ("facebook/wav2vec2-base", "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"),
    "wavlm": ("microsoft/wavlm-base-plus", "4c66d4806a428f2e922ccfa1a962776e232d487b"),
    "hubert": ("facebook/hubert-base-ls960", "dba3bb02fda4248b6e082697eee756de8fe8aa8a"),
    "whisper": ("openai/whisper-small", "973afd24965f72e36ca33b3055d56a652f456b4d"),
    "phowhisper": ("vinai/PhoWhisper-small", None),
}

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model", "*.codes", "*.pth")
"""What a local checkpoint's digest covers: weights, configuration, tokenizer."""

TINY_WAY_OUT = "for a demo or a test without them: `weights: tiny` (random, and marked as such)"


@dataclass(frozen=True)
class Source:
    """Where weights come from: `name` is a hub id or a folder, `revision` a commit of the hub."""

    name: str
    revision: str | None
    local: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments common to every `from_pretrained`; code in a checkpoint is never run."""
        return {"trust_remote_code": False} | ({"revision": self.revision} if self.revision else {})


def locate(level: str, config: EncoderConfig) -> Source:
    """The source that a recipe names, or the level's pinned default."""
    name, revision = config.checkpoint, config.revision
    if name is None:
        if level not in PINNED:
            raise UserError(f"encoder {level!r} needs a checkpoint", expected="checkpoint: hub id or local folder")
        name, pinned = PINNED[level]
        revision = revision or pinned
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(str(path), None, local=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.is_file():
        raise UserError(
            f"checkpoint {name!r} is not a folder", expected="a folder with config.json and weights, or a hub id"
        )
    return Source(name, revision, local=False)


def load_config(source: Source) -> Any:
    """The architecture (transformers configuration) of a checkpoint."""
    from transformers import AutoConfig

    return _obtain(source, AutoConfig.from_pretrained, "its configuration")


def load_body(source: Source, config: Any, kind: Any = None, unused: tuple[str, ...] = ()) -> Any:
    """The model, every weight of it from the checkpoint. `unused`: parts that we never run and that may be missing."""
    import torch
    from transformers import AutoModel

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # no background request to the hub
    load = functools.partial(
        (kind or AutoModel).from_pretrained, config=config, dtype=torch.float32, output_loading_info=True
    )
    with _quiet():  # what it would report of missing weights is checked below, and refused
        body, info = _obtain(source, load, "its weights")
    missing = [name for name in info["missing_keys"] if not any(part in name for part in unused)]
    mismatched = [str(found[0] if isinstance(found, tuple) else found) for found in info["mismatched_keys"]]
    if missing or mismatched:
        lacking = sorted([*missing, *mismatched])
        raise UserError(
            f"checkpoint {source.name!r} lacks {len(lacking)} weights of {type(body).__name__}, such as {lacking[0]}",
            hint="They would stay random. Is this checkpoint of another architecture?",
        )
    return body


def load_part(source: Source, kind: Any, what: str) -> Any:
    """A tokenizer or a feature extractor of a checkpoint."""
    return _obtain(source, kind.from_pretrained, what)


def identity(source: Source, config: Any) -> dict[str, object]:
    """What names these weights for ever: the hub's commit, or a digest of the local files; no path."""
    if source.local:
        return {"weights": digest_of(Path(source.name))}
    commit = getattr(config, "_commit_hash", None) or source.revision
    return {"weights": f"{source.name}@{commit}"}


def digest_of(path: Path) -> str:
    """Digest of a checkpoint folder (weights, configuration, tokenizer) or file."""
    files = [path] if path.is_file() else sorted({file for glob in WEIGHT_FILES for file in path.glob(glob)})
    return _digest(tuple((str(file), state_of(file)) for file in files))


@functools.lru_cache(maxsize=32)
def _digest(files: tuple[tuple[str, tuple[int, ...]], ...]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, _ in files:
        with plain(Path(name)).open("rb") as stream:
            content = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
        total.update(Path(name).name.encode() + b"\0" + content)
    return total.hexdigest()


def _obtain(source: Source, load: Any, what: str) -> Any:
    """Load from the local cache where it is there; only otherwise ask the hub."""
    tried = [f"the folder {source.name}"] if source.local else ["the local cache of the hub"]
    try:
        return load(source.name, local_files_only=True, **source.arguments)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = error
    if not source.local and not _offline():
        tried.append(_endpoint())
        if _reachable():
            try:
                return load(source.name, **source.arguments)
            except (OSError, ValueError, KeyError, ImportError) as error:
                reason = error
        else:
            reason = OSError("the hub cannot be reached from here")
    first = str(reason).strip().split("\n")[0]
    at = f" at {source.revision[:12]}" if source.revision else ""
    raise UserError(
        f"cannot load checkpoint {source.name!r}{at}: {what} is not available ({first}); tried {', then '.join(tried)}",
        hint="Download it where there is a network (`hf download "
        + source.name
        + (f" --revision {source.revision}" if source.revision else "")
        + "`) and set HF_HOME to that cache, or name a local folder as `checkpoint`; "
        + TINY_WAY_OUT,
    ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from transformers import utils

    logging: Any = utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@functools.lru_cache(maxsize=1)
def _reachable() -> bool:
    """Does the hub's name resolve? Asked once, because the hub's client tries five times over half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy resolves it
    try:
        socket.getaddrinfo(urlparse(_endpoint()).hostname, 443)
    except OSError:
        return False
    return True
