"""Weights: what was asked for, or a refusal that says what was tried; never something else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer import weights
from mer.data.store.frontend import frontend_digest
from mer.errors import UserError


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("unreachable")
def test_without_network_the_refusal_says_what_to_do(build: Any) -> None:
    with pytest.raises(UserError) as caught:
        build("xlsr")
    message = str(caught.value)
    assert "facebook/wav2vec2-large-xlsr-53" in message
    assert "tried the local cache of the hub, then https://huggingface.co" in message
    for advice in ("HF_HOME", "checkpoint", "weights: tiny", "--revision c3f9d884"):
        assert advice in message


@pytest.mark.usefixtures("unreachable")
def test_a_frozen_encoder_never_falls_back_to_random_weights(build: Any) -> None:
    for name in ("phobert", "videberta", "wav2vec2", "wavlm", "hubert", "whisper", "phowhisper", "dual"):
        with pytest.raises(UserError, match="cannot load checkpoint"):
            build(name)


def test_every_default_is_pinned_or_says_that_it_is_not() -> None:
    for name, (checkpoint, commit) in weights.PINNED.items():
        assert checkpoint.count("/") == 1
        assert commit is None or re.fullmatch(r"[0-9a-f]{40}", commit), name
    assert [name for name, (_, commit) in weights.PINNED.items() if commit is None] == ["videberta", "phowhisper"]


def test_a_checkpoint_that_lacks_weights_is_refused(build: Any, saved: Any, tmp_path: Path) -> None:
    """transformers would fill them with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    folder = saved.speech(tmp_path, "wav2vec2", "layer")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("encoder.layers.1.attention.k_proj.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"lacks 1 weights of Wav2Vec2Model, such as encoder\.layers\.1\.attention\.k_proj"
    ):
        build("wav2vec2", checkpoint=str(folder), train="full")


def test_the_identity_is_the_content_not_the_path(build: Any, saved: Any, tmp_path: Path) -> None:
    one, two = (saved.speech(tmp_path / name, "wav2vec2", "layer") for name in ("one", "two"))
    digests = [frontend_digest(build("wav2vec2", checkpoint=str(path)).frontend) for path in (one, two)]
    assert digests[0] == digests[1]
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert frontend_digest(build("wav2vec2", checkpoint=str(two)).frontend) != digests[0]
    assert str(tmp_path) not in json.dumps(build("wav2vec2", checkpoint=str(two)).frontend.identity())


def test_code_in_a_checkpoint_is_not_run(build: Any, saved: Any, tmp_path: Path) -> None:
    folder = saved.text(tmp_path / "model", "roberta")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('x')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot load checkpoint"):
        build("hf_text", checkpoint=str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("wav2vec2", {"weights": "tiny", "checkpoint": "facebook/x"}, "tiny weights are random"),
        ("wav2vec2", {"weights": "scratch", "train": "frozen"}, "would stay random"),
        ("wav2vec2", {"weights": "tiny", "train": "last_k", "last_k": 9}, "expected 1 to 2, its layers"),
        ("wav2vec2", {"weights": "tiny", "layer": 3}, "layer 3; expected -1"),
        ("wav2vec2", {"checkpoint": "/no/such/folder"}, "is not a folder"),
        ("hf_text", {}, "needs a checkpoint"),
        ("fourier2vec", {"train": "frozen"}, "random projection"),
        ("fourier2vec", {"weights": "pretrained"}, "no released weights"),
        ("logmel", {"train": "full"}, "no weights"),
        ("words", {"weights": "tiny"}, "trained from scratch"),
        ("dual", {"weights": "tiny", "merge": "add"}, "expected concat or sum"),
        ("wav2vec2", {"weights": "tiny", "layr": 3}, "did you mean 'layer'"),
        ("wav2vec", {}, "did you mean 'wav2vec2'"),
    ],
)
def test_contradictions_are_refused(build: Any, name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(name, **config)


def test_tiny_weights_are_the_same_everywhere_and_marked(build: Any) -> None:
    one = build("wavlm", weights="tiny").make_body().state_dict()
    torch.manual_seed(99)
    two = build("wavlm", weights="tiny").make_body().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name in ("wavlm", "phobert", "whisper", "vggish", "dual"):
        assert build(name, weights="tiny").random_weights
    assert not build("fourier2vec").random_weights
    assert build("fourier2vec", random_frozen=True).random_weights


def test_gradual_unfreezing_goes_down_one_layer_at_a_time(build: Any) -> None:
    encoder = build("hubert", weights="tiny", train="gradual", unfreeze_every=2)

    def trained() -> list[bool]:
        parts = [encoder.body.feature_extractor, *encoder.body.encoder.layers]
        return [all(parameter.requires_grad for parameter in part.parameters()) for part in parts]

    seen = []
    for epoch in range(6):
        encoder.on_epoch(epoch)
        seen.append(trained())
    down, more, everything = [False, False, True], [False, True, True], [True, True, True]
    assert seen == [down, down, more, more, everything, everything]


def test_frozen_layers_run_as_in_evaluation(build: Any) -> None:
    encoder = build("hubert", weights="tiny", train="last_k", last_k=1).train()
    bottom, top = encoder.body.encoder.layers
    assert not any(part.training for part in bottom.modules() if list(part.parameters()))
    assert top.training
    frozen = [parameter for parameter in encoder.body.feature_extractor.parameters() if parameter.requires_grad]
    assert frozen == []


def test_a_copied_model_shares_the_frozen_body(build: Any) -> None:
    import copy

    encoder = build("hubert", weights="tiny")
    body = encoder.frontend.body.get()
    assert copy.deepcopy(encoder).frontend.body.get() is body
    assert np.isfinite(next(iter(body.parameters())).numpy()).all()
