"""A split cut out of one that is encoded already is the split that is encoded by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mer.data.corpus import Corpus
from mer.data.loading import SplitData, prepare_split
from mer.data.store import FeatureStore
from mer.model import Model, build_model
from mer.recipe import Recipe


def model_of(corpus: Corpus) -> Model:
    features = {name: {"name": "features"} for name in ("text", "audio", "visual")}
    return build_model(Recipe.model_validate({"encoders": features, "projection": {"dim": 4}}), corpus.info, 0)


def prepared(corpus: Corpus, utterances: object, store: FeatureStore) -> SplitData:
    return prepare_split(corpus.info, utterances, model_of(corpus).encoder_table(), store)  # type: ignore[arg-type]


def test_a_selection_is_the_split(tiny_corpus: Corpus, feature_store: FeatureStore) -> None:
    pool = prepared(tiny_corpus, tuple(tiny_corpus.utterances()), feature_store)
    rng = np.random.default_rng(0)
    for part in (tiny_corpus.train, tiny_corpus.test, tuple(tiny_corpus.train[i] for i in rng.permutation(17))):
        one, other = pool.select(part), prepared(tiny_corpus, part, feature_store)
        assert one.ids == other.ids
        assert one.utterances == other.utterances
        for name in ("dialogue", "speaker", "turn", "present"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert torch.equal(one.labels, other.labels)
        rows, available = rng.permutation(len(part))[:9], rng.random((len(part), 3)) < 0.7
        for name, sequence in one.batch(rows, available, dialogues=False).modalities.items():
            expected = other.batch(rows, available, dialogues=False).modalities[name]
            assert torch.equal(sequence.values, expected.values)
            assert torch.equal(sequence.mask, expected.mask)


def test_statistics_are_taken_once_and_are_those_of_the_split(
    tiny_corpus: Corpus, feature_store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mer.encoders.features import Features

    fits: list[str] = []
    fit = Features.fit
    monkeypatch.setattr(Features, "fit", lambda self, x, rows: (fits.append(self.modality), fit(self, x, rows))[1])
    pool = prepared(tiny_corpus, tuple(tiny_corpus.utterances()), feature_store)
    train = pool.select(tiny_corpus.train)
    models = [model_of(tiny_corpus) for _ in range(3)]
    for model in models:
        for name, encoder in model.encoder_table().items():
            train.fit(name, encoder)
    assert fits == ["text", "audio", "visual"]
    alone = model_of(tiny_corpus).encoder_table()["text"]
    alone.fit(prepared(tiny_corpus, tiny_corpus.train, feature_store).arrays["text"], np.arange(len(train)))
    for model in models:
        buffers = dict(model.encoder_table()["text"].named_buffers())
        assert all(torch.equal(buffers[name], value) for name, value in alone.named_buffers())
    whole = model_of(tiny_corpus).encoder_table()["text"]
    pool.fit("text", whole)
    assert not torch.equal(whole.standardiser.mean, alone.standardiser.mean)
