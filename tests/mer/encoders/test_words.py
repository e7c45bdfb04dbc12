"""Hashed words and TF-IDF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mer.batch import Sequence
from mer.encoders.words import HashedWords


def padded(rows: list[np.ndarray], fill: int = 7) -> Sequence:
    longest = max(len(row) for row in rows)
    values = torch.full((len(rows), longest, rows[0].shape[1] if len(rows[0]) else 1), fill)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = True
    return Sequence(values, mask)


def test_hashing_is_fixed_for_ever() -> None:
    (ids,) = HashedWords(1000, 0, "none").extract(["Tôi yêu, TÔI"])
    assert ids.tolist() == [[297], [574], [472], [297]]


def test_ngrams_are_shared_between_forms() -> None:
    one, two = HashedWords(100_000, 4, "none").extract(["happy", "happily"])
    shared = set(one[0, 1:].tolist()) & set(two[0, 1:].tolist()) - {0}
    assert len(shared) >= 4  # <ha hap app, <hap happ ...
    assert one[0, 0] != two[0, 0]


def test_words_batched_equals_alone(build: Any) -> None:
    torch.manual_seed(0)
    encoder = build("words", ngrams=4, positions=True, conv=2, dim=8, buckets=50).eval()
    rows = encoder.frontend.extract(["một hai ba bốn", "năm", "sáu bảy"])
    with torch.no_grad():
        found = encoder(padded(rows))
        for number, row in enumerate(rows):
            solo = encoder(padded([row])).values[0]
            np.testing.assert_allclose(found.values[number, : len(row)].numpy(), solo.numpy(), atol=1e-6)
    assert found.lengths.tolist() == [4, 1, 2]


def test_tfidf_is_its_equation(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    torch.manual_seed(0)
    encoder = build("tfidf", dim=3, buckets=500).eval()
    ragged = encoder.arrays(info, utterances, store)
    encoder.fit(ragged, np.array([0, 1, 2]))
    texts = [["tôi", "yêu", "em"], ["hôm", "nay", "trời", "đẹp", "quá", "và", "tôi", "rất", "vui"], ["không", "!"]]
    weight = encoder.project.weight.detach().numpy()
    with torch.no_grad():
        found = encoder(ragged.gather(np.arange(5)))
    assert found.mask.squeeze(1).tolist() == [True, True, True, True, False]
    for number, words in enumerate(texts):
        vector = np.zeros(501)
        for word in words:
            (ids,) = encoder.frontend.extract([word])
            having = sum(word in other for other in texts)
            vector[ids[0, 0]] = (1 + math.log(words.count(word))) * (math.log(4 / (1 + having)) + 1)
        expected = weight @ (vector / np.linalg.norm(vector)) + encoder.project.bias.detach().numpy()
        np.testing.assert_allclose(found.values[number, 0].numpy(), expected, atol=1e-5)
