"""What every encoder is: a frontend whose output is cached, and a body that is trained (or nothing).

An encoder takes one modality of an utterance to a `Sequence [B, T, out_dim]` whose mask is at the encoder's own
output time-scale. What does not change during training is done once, in the `frontend`, and kept in the feature
store: everything for a frozen encoder, decoding or log-mels for a trained one.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn

from mer.batch import Sequence
from mer.data.ragged import DeviceRagged, Ragged
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo, Utterance
    from mer.data.store import FeatureStore, Frontend
    from mer.recipe import EncoderConfig


class Encoder(nn.Module):
    """Base of all encoders. A subclass sets `out_dim` and `frontend`, and overrides what it needs.

    Shapes: `forward` takes what the frontend gave, batched as `Sequence [B, T, frontend.dim]`, and returns
    `Sequence [B, T', out_dim]`. The default body is the identity: all work was done by the frontend.
    """

    requires: frozenset[str] = frozenset()
    """What a corpus must have: `audio`, `text`, or `features`."""

    unbundled: str = ""
    """Why trials with it cannot be trained together in one step (`mer.bundle`), if they cannot."""

    one_frame: bool = False
    """Does it give one frame for each utterance, whatever the corpus?"""

    kind: ClassVar[Literal["audio", "text", "features"]] = "features"
    out_dim: int
    frontend: Frontend | None = None
    random_weights: bool = False
    """True where numbers come from weights that nobody trained: `tiny`, or random and frozen on request."""
    trained: bool = False
    """Does the body learn? False: the encoder's output is a constant of the utterance."""

    def __init__(self, modality: str, config: EncoderConfig, info: CorpusInfo) -> None:
        super().__init__()
        self.modality, self.config = modality, config

    def item(self, info: CorpusInfo, utterance: Utterance) -> AudioClip | str | None:
        """What the frontend reads of an utterance, or None where the utterance lacks the modality."""
        if self.modality in utterance.lacks:
            return None
        if self.kind == "text":
            from mer.data.text import normalise

            text = normalise(utterance.transcript) if utterance.transcript else ""
            return text or None
        if self.kind == "audio":
            from mer.data.audio import clip_of

            return clip_of(info, utterance)
        return None

    def arrays(self, info: CorpusInfo, utterances: Items[Utterance], store: FeatureStore) -> Ragged:
        """One entry per utterance, through the store; empty where the utterance lacks the modality."""
        assert self.frontend is not None
        items = [self.item(info, utterance) for utterance in utterances]
        if utterances and all(item is None for item in items):
            raise UserError(
                f"encoder {self.config.name!r} of modality {self.modality!r} needs {self.kind}, "
                f"which no utterance of corpus {info.name!r} has",
                where=utterances[0].source,
            )
        return store.get(self.frontend, items)

    def reads(self) -> str:
        """What `arrays` depends on, apart from the utterances: encoders that agree in it read the same arrays."""
        if self.frontend is None:
            return self.config.name
        from mer.data.store.frontend import frontend_digest

        return frontend_digest(self.frontend)

    def transcripts_read(self, utterances: Items[Utterance]) -> tuple[tuple[int, ...], ...] | None:
        """For each utterance, the positions of those whose transcripts its array was made from, where an encoder
        reads more than the utterance's own modality (a prompt holds neighbours). None: it does not."""
        return None

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        """Statistics from the training rows alone. Default: nothing to learn."""

    def forward(self, x: Sequence) -> Sequence:
        return x

    def on_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0: what gradual unfreezing listens to."""


class AudioEncoder(Encoder):
    """An encoder of speech: its number of output frames is a function of the number of samples."""

    requires = frozenset({"audio"})
    kind = "audio"
    sample_rate: int = 16_000
    min_samples: int = 1
    """Shorter clips are padded with silence to this, so that each gives at least one frame."""

    def get_feat_lengths(self, samples: Tensor) -> Tensor:
        """`[B]` numbers of samples -> `[B]` numbers of output frames, exactly; 0 where there are too few."""
        raise NotImplementedError


def column(x: Sequence) -> Tensor:
    """`[B, T]` of a one-column input (samples, token ids), zeros where masked."""
    values = x.filled()
    return values.squeeze(-1) if values.dim() == 3 else values


def mask_of(lengths: Tensor, size: int | None = None) -> Tensor:
    """`[B]` lengths -> `[B, size]` mask, True = real.

    >>> mask_of(torch.tensor([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    size = int(lengths.max()) if size is None else size
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
