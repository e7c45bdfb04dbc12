"""Text encoders: full token sequences, batches equal single texts, segmentation in the identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer.batch import Sequence
from mer.data.store.frontend import frontend_digest
from mer.errors import UserError

TEXTS = ["tôi yêu em", "hôm nay trời đẹp quá và tôi rất vui", "buồn"]


@pytest.fixture(scope="module", params=["roberta", "deberta"])
def folder(request: pytest.FixtureRequest, saved: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(saved.text(tmp_path_factory.mktemp("text"), request.param))


def alone(folder: Path, text: str) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModel.from_pretrained(folder).eval()
        frames: np.ndarray = model(ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state[0].numpy()
        return frames


def test_frozen_and_trained_are_transformers_one_by_one(build: Any, folder: Path) -> None:
    frozen = build("hf_text", checkpoint=str(folder), max_length=18)
    trained = build("hf_text", checkpoint=str(folder), max_length=18, train="full").eval()
    found = frozen.frontend.extract(TEXTS)
    ids = trained.frontend.extract(TEXTS)
    assert [len(row) for row in found] == [len(row) for row in ids] == [5, 11, 3]
    assert all(row[0] == 0 and row[-1] == 2 for row in ids)
    values, mask = torch.full((4, 11), 999), torch.zeros(4, 11, dtype=torch.bool)
    for row, tokens in enumerate(ids):
        values[row, : len(tokens)], mask[row, : len(tokens)] = torch.from_numpy(tokens), True
    with torch.no_grad():
        batched = trained(Sequence(values, mask))
    assert batched.lengths.tolist() == [5, 11, 3, 0]
    for row, text in enumerate(TEXTS):
        expected = alone(folder, text)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
        np.testing.assert_allclose(batched.values[row][batched.mask[row]].numpy(), expected, atol=1e-5)


def test_truncation_keeps_both_ends_special(build: Any, folder: Path) -> None:
    (ids,) = build("hf_text", checkpoint=str(folder), max_length=5, train="full").frontend.extract([TEXTS[1]])
    assert len(ids) == 5
    assert (ids[0], ids[-1]) == (0, 2)


def test_no_more_positions_than_the_model_has(build: Any, saved: Any, tmp_path: Path) -> None:
    folder = saved.text(tmp_path, "roberta")  # a table of 20, of which 2 lie before the first position
    with pytest.raises(UserError, match="max_length 19; expected 3 to 18"):
        build("hf_text", checkpoint=str(folder), max_length=19)


def test_phobert_has_256_positions(build: Any) -> None:
    assert build("phobert", weights="tiny").max_length == 256
    with pytest.raises(UserError, match="expected 3 to 256"):
        build("phobert", weights="tiny", max_length=257)


def test_phobert_reads_its_own_vocabulary(tmp_path: Path) -> None:
    """PhoBERT's slow tokenizer (vocab.txt, bpe.codes) through the same loading code."""
    from transformers import PhobertTokenizer, RobertaConfig, RobertaModel

    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "vocab.txt").write_text("tôi 5\nyêu 4\nHà_Nội 3\n", "utf-8")
    (tmp_path / "raw" / "bpe.codes").write_text("t ô 10\ntô i</w> 9\ny ê 8\nyê u</w> 7\n", "utf-8")
    tokenizer: Any = PhobertTokenizer(str(tmp_path / "raw" / "vocab.txt"), str(tmp_path / "raw" / "bpe.codes"))
    folder = tmp_path / "phobert"
    tokenizer.save_pretrained(folder)
    made: Any = RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=258,
            type_vocab_size=1,
            pad_token_id=1,
        )
    )
    made.save_pretrained(folder)
    from mer.data.corpus import CorpusInfo
    from mer.encoders import build_encoder
    from mer.recipe import EncoderConfig

    config = EncoderConfig.model_validate({"name": "phobert", "checkpoint": str(folder), "segmenter": "presegmented"})
    encoder: Any = build_encoder("text", config, CorpusInfo(tmp_path, "x", ("a", "b")))
    assert encoder.tokens(["tôi yêu"]) == [tokenizer("tôi yêu")["input_ids"]]
    assert len(encoder.tokens(["tôi yêu"])[0]) == 4
    assert encoder.frontend.extract(["tôi yêu"])[0].shape == (4, 16)


def test_segmentation_happens_and_is_part_of_the_identity(build: Any) -> None:
    pytest.importorskip("pyvi")
    plain, cut = (build("phobert", weights="tiny", train="full", segmenter=name) for name in ("none", "pyvi"))
    text = "Chúng tôi là những nghiên cứu viên"
    assert len(cut.tokens([text])[0]) < len(plain.tokens([text])[0])
    assert frontend_digest(cut.frontend) != frontend_digest(plain.frontend)
    assert frontend_digest(build("phobert", weights="tiny", train="full").frontend) == frontend_digest(cut.frontend)
    with pytest.raises(UserError, match="did you mean 'pyvi'"):
        build("phobert", weights="tiny", segmenter="pyvy")


def test_an_empty_transcript_is_absent_not_a_crash(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    ragged = build("hf_text", weights="tiny").arrays(info, utterances, store)
    assert ragged.lengths.tolist() == [5, 11, 4, 3, 0]
    assert not np.isnan(ragged.gather(np.arange(5)).values.numpy()).any()
