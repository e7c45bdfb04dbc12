"""Text without pretrained weights: hashed words with learned vectors, and hashed TF-IDF."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mer.batch import Sequence
from mer.data.ragged import DeviceRagged, Ragged
from mer.data.text import segment, segmenter_identity
from mer.encoders.base import Encoder
from mer.encoders.hf_text import bucket
from mer.errors import UserError
from mer.layers import Dropout, TemporalConv, add_positions, zeroed

if TYPE_CHECKING:
    from mer.data.audio import AudioClip
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

_TOKEN = re.compile(r"\w+|[^\w\s]")


class HashedText(Encoder):
    """Base: texts as hashed ids, one row per word; what is built on them is trained from scratch."""

    requires = frozenset({"text"})
    kind = "text"
    trained = True

    def _check(self, config: EncoderConfig, buckets: int) -> None:
        if (
            config.weights not in (None, "scratch")
            or config.checkpoint is not None
            or config.train not in (None, "full")
        ):
            raise UserError(
                f"encoder {config.name!r} is trained from scratch, entirely",
                hint="Remove the keys weights, checkpoint and train.",
            )
        if buckets < 2:
            raise UserError(f"encoder {config.name!r}: buckets {buckets}", expected="at least 2")


class Words(HashedText):
    """Learned vectors of words, found by a hash of their lower-case form (punctuation marks are words).

    Equation:
        x_t = drop(E[hash(w_t)] + mean of E[hash(n-gram)] over the n-grams of w_t)

    With character n-grams rare and misspelt words share what they are made of. Hashing is the same on every machine;
    there is no vocabulary to fit, so nothing can leak from validation or test.

    Shapes: texts -> `[B, T, dim]`, one frame per word.
    When to choose: no pretrained weights, the demo corpus, quick text baselines.
    Cost: buckets dim parameters.
    Source: character n-grams: fastText, Bojanowski et al. 2017, arXiv 1607.04606.

    Args:
        dim: width of a vector.
        buckets: number of vectors; words that fall into one bucket share it.
        ngrams: longest character n-gram (0: none; 3 to `ngrams` otherwise), at most 16 per word.
        dropout: on the vectors.
        positions: add sinusoids, for fusions that do not read order themselves.
        conv: layers of convolution over 3 words.
        segmenter: as for `hf_text`.
    """

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        dim: int = 64,
        buckets: int = 8192,
        ngrams: int = 0,
        dropout: float = 0.3,
        positions: bool = False,
        conv: int = 0,
        segmenter: str = "none",
    ) -> None:
        super().__init__(modality, config, info)
        self._check(config, buckets)
        if ngrams and ngrams < 3:
            raise UserError(f"encoder {config.name!r}: ngrams {ngrams}", expected="0, or at least 3 characters")
        self.out_dim, self.positions = dim, positions
        self.frontend = HashedWords(buckets, ngrams, segmenter)
        self.embedding = nn.Embedding(buckets + 1, dim, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        self.conv = TemporalConv(dim, conv, 3, dropout) if conv else None
        self.drop = Dropout(dropout)

    def forward(self, x: Sequence) -> Sequence:
        ids = x.filled().long()
        vectors = self.embedding(ids)
        values = vectors[:, :, 0]
        if ids.shape[2] > 1:
            count = (ids[:, :, 1:] > 0).sum(dim=2, keepdim=True).clamp(min=1)
            values = values + vectors[:, :, 1:].sum(dim=2) / count
        if self.positions:
            values = add_positions(values, x.mask)
        values = self.drop(values)
        if self.conv is not None:
            values = self.conv(values, x.mask)
        return Sequence(zeroed(values, x.mask), x.mask)


class TfIdf(HashedText):
    """Hashed TF-IDF of the whole text, projected: the classical baseline as one frame.

    Equation:
        v_b   = (1 + ln n_b) idf_b               n_b: words (or n-grams) of bucket b in the text
        idf_b = ln((1 + N) / (1 + N_b)) + 1      N_b of the N training texts have one
        z     = W drop(v / |v|)

    Shapes: texts -> `[B, 1, dim]`.
    When to choose: many short texts without pretrained weights; the baseline to report.
    Cost: buckets dim parameters.
    Source: Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval"; the smoothing is
        scikit-learn's.

    Args:
        dim: width of the projection.
        buckets: number of buckets.
        ngrams: as for `words`.
        dropout: on the entries of v.
        segmenter: as for `hf_text`.
    """

    one_frame = True
    idf: Tensor

    def __init__(
        self,
        modality: str,
        config: EncoderConfig,
        info: CorpusInfo,
        *,
        dim: int = 64,
        buckets: int = 8192,
        ngrams: int = 0,
        dropout: float = 0.1,
        segmenter: str = "none",
    ) -> None:
        super().__init__(modality, config, info)
        self._check(config, buckets)
        self.out_dim, self.buckets = dim, buckets
        self.frontend = HashedWords(buckets, ngrams, segmenter)
        self.register_buffer("idf", torch.ones(buckets + 1))
        self.drop, self.project = Dropout(dropout), nn.Linear(buckets + 1, dim)

    def fit(self, x: Ragged | DeviceRagged, rows: npt.NDArray[Any]) -> None:
        having = torch.zeros(self.buckets + 1)
        for start in range(0, len(rows), 256):
            having += (self._counts(x.gather(rows[start : start + 256], device="cpu")) > 0).sum(dim=0)
        self.idf.copy_(torch.log((1 + len(rows)) / (1 + having)) + 1)

    def _counts(self, x: Sequence) -> Tensor:
        ids = x.filled().long().flatten(1)
        counts = ids.new_zeros((len(ids), self.buckets + 1), dtype=self.idf.dtype)
        counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))
        counts[:, 0] = 0.0
        return counts

    def forward(self, x: Sequence) -> Sequence:
        counts = self._counts(x)
        weights = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0.0) * self.idf
        z = self.project(self.drop(F.normalize(weights, dim=1)))
        return Sequence(z.unsqueeze(1), x.present.unsqueeze(1))


class HashedWords:
    """Texts -> `[T, 1 + n]` ids in 1 .. buckets: the word, then its character n-grams (0: none)."""

    LIMIT = 16

    def __init__(self, buckets: int, ngrams: int, segmenter: str) -> None:
        self.buckets, self.ngrams, self.segmenter = buckets, ngrams, segmenter
        segmenter_identity(segmenter)
        self.dim, self.dtype = 1 + (self.LIMIT if ngrams else 0), "int32"
        self.kind: Literal["audio", "text"] = "text"

    def identity(self) -> dict[str, object]:
        return {
            "frontend": "hashed words",
            "version": 1,
            "buckets": self.buckets,
            "ngrams": self.ngrams,
            "segmenter": segmenter_identity(self.segmenter),
        }

    def extract(self, items: Items[AudioClip | str]) -> list[npt.NDArray[np.generic]]:
        return [self._ids(segment(str(item), self.segmenter)) for item in items]

    def _ids(self, text: str) -> npt.NDArray[np.generic]:
        words = _TOKEN.findall(text.lower()) or [""]
        ids = np.zeros((len(words), self.dim), dtype=np.int32)
        for row, word in zip(ids, words, strict=True):
            found = self._word(word)
            row[: len(found)] = found
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        return _hashed(word, self.buckets, self.ngrams, self.LIMIT)


@functools.lru_cache(maxsize=65_536)
def _hashed(word: str, buckets: int, longest: int, limit: int) -> tuple[int, ...]:
    marked = f"<{word}>"
    grams = [marked[i : i + n] for n in range(3, longest + 1) for i in range(len(marked) - n + 1)]
    return tuple(1 + bucket(part, buckets) for part in [word, *(f"#{gram}" for gram in grams[:limit])])
