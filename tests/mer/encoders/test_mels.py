"""Log-mels, Fourier2Vec, VGGish and dual: frame counts against torch.stft and loops, padding that cannot matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mer.batch import Sequence
from mer.data.ragged import Ragged
from mer.encoders.augment import Augment
from mer.encoders.logmel import average, slopes
from mer.encoders.mel import MelSpec, _filters
from mer.encoders.vggish import Vggish, load_vggish, patch_count, patches_of
from mer.layers import set_generator

FOURIER: list[dict[str, Any]] = [
    {"patch": 1},
    {"patch": 4},
    {"patch": 3},
    {"patch": 4, "stem": "conv"},
    {"patch": 8, "stem": "conv", "normalise": "utterance"},
    {"patch": 1, "stem": "conv"},
]


@settings(max_examples=50, deadline=None)
@given(
    samples=st.integers(1, 50_000),
    rate=st.sampled_from([8_000, 16_000, 22_050, 44_100]),
    hop=st.sampled_from([10.0, 12.5, 20.0]),
    center=st.booleans(),
)
def test_frames_are_those_of_the_spectrogram(samples: int, rate: int, hop: float, center: bool) -> None:
    """Odd windows (44.1 kHz: 1102.5 -> 1102) and lengths that are multiples of the hop included."""
    spec = MelSpec(rate=rate, hop_ms=hop, center=center, f_max=3500.0)
    if not center and samples < spec.window:
        assert int(spec.frames(torch.tensor(samples))) == 0
        return
    assert spec(torch.zeros(samples)).shape == (int(spec.frames(torch.tensor(samples))), 64)
    if center:
        window = torch.hann_window(spec.window)
        stft = torch.stft(
            torch.zeros(samples), spec.n_fft, spec.hop, spec.window, window, pad_mode="constant", return_complex=True
        )
        assert stft.shape[1] == int(spec.frames(torch.tensor(samples))) == 1 + samples // spec.hop


def test_log_mel_is_the_definition() -> None:
    """One frame, computed with loops."""
    spec, samples = MelSpec(center=False), torch.randn(600, generator=torch.Generator().manual_seed(0))
    frame = samples[160:560].numpy() * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    magnitude = np.abs(np.fft.rfft(frame, 512))
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    for band in (0, 20, 63):
        total = 0.0
        for number in range(1, 257):
            mel = 1127 * np.log1p(number * 16_000 / 512 / 700)
            low, centre, high = edges[band : band + 3]
            total += max(0.0, min((mel - low) / (centre - low), (high - mel) / (high - centre))) * magnitude[number]
        assert float(spec(samples)[1, band]) == pytest.approx(np.log(total + 0.01), abs=1e-4)
    assert float(_filters(spec)[:, 0].abs().sum()) == 0.0


def test_padding_with_zeros_changes_no_frame() -> None:
    """Bit for bit, which `pad_mode="reflect"` would not give."""
    spec, samples = MelSpec(), torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    solo = spec(samples)
    assert torch.equal(spec(torch.nn.functional.pad(samples, (0, 7_777)))[: len(solo)], solo)


def batch_of(sizes: list[int], fill: float, longest: int | None = None) -> Sequence:
    generator = torch.Generator().manual_seed(0)
    values = torch.full((len(sizes), longest or max(sizes), 64), fill)
    mask = torch.zeros(values.shape[:2], dtype=torch.bool)
    for row, size in enumerate(sizes):
        values[row, :size] = torch.randn(size, 64, generator=generator)
        mask[row, :size] = True
    return Sequence(values, mask)


@pytest.mark.parametrize("options", FOURIER, ids=str)
def test_fourier2vec_solo_equals_batched(options: dict[str, Any], build: Any) -> None:
    torch.manual_seed(0)
    encoder = build("fourier2vec", dim=16, layers=2, heads=2, **options).eval()
    sizes = [1, 37, 64, 0, 5]
    batch = batch_of(sizes, float("nan"), longest=70)
    with torch.no_grad():
        found = encoder(batch)
    assert found.lengths.tolist() == [-(-size // options["patch"]) for size in sizes]
    for row, size in enumerate(sizes):
        if size:
            alone = Sequence(batch.values[row : row + 1, :size], batch.mask[row : row + 1, :size])
            with torch.no_grad():
                solo = encoder(alone)
            ours = found.values[row][found.mask[row]]
            np.testing.assert_allclose(ours.numpy(), solo.values[0][solo.mask[0]].numpy(), atol=2e-5)


def test_fourier2vec_lengths_from_samples(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    samples = torch.tensor([800, 16_000, 12_345, 40_000])
    for patch in (1, 4):
        encoder = build("fourier2vec", dim=16, heads=2, layers=1, patch=patch)
        ragged = encoder.arrays(info, utterances, store)
        expected = [-(-(1 + int(size) // 160) // patch) for size in samples]
        assert encoder.get_feat_lengths(samples).tolist() == expected
        assert encoder(ragged.gather(np.arange(5))).lengths.tolist() == [*expected, 0]


def test_fourier2vec_knows_order_and_trains(build: Any) -> None:
    torch.manual_seed(0)
    encoder = build("fourier2vec", dim=16, layers=1, heads=2, patch=2)
    batch = batch_of([8], 0.0)
    turned = Sequence(batch.values.flip(1).contiguous(), batch.mask)
    with torch.no_grad():
        one, two = encoder.eval()(batch).values[0], encoder(turned).values[0]
    assert float((one.mean(0) - two.mean(0)).abs().max()) > 1e-3
    encoder.train()(batch_of([8, 3], float("nan"))).values.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_augmentation_belongs_to_the_generator() -> None:
    augment = Augment(2, 10, 2, 8, stretch=0.2, shift=3, gain=0.5)
    batch = batch_of([40, 25, 0], float("nan"))
    found = []
    for seed in (1, 1, 2):
        set_generator(augment, torch.Generator().manual_seed(seed))
        torch.manual_seed(seed + 10 * len(found))
        stretched = augment(batch)
        found.append((stretched, augment.stripes(stretched.values, stretched.mask)))
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][1].shape != found[2][1].shape or not torch.equal(found[0][1], found[2][1])
    factor = found[0][0].lengths.tolist()
    assert factor[2] == 0
    assert 32 <= factor[0] <= 48
    assert not torch.isnan(found[0][1]).any()


def test_stripes_are_narrow_and_set_to_the_mean() -> None:
    augment = Augment(1, 10, 1, 8)
    set_generator(augment, torch.Generator().manual_seed(0))
    values, mask = torch.ones(200, 30, 64), torch.ones(200, 30, dtype=torch.bool)
    striped = augment.stripes(values, mask)
    rows = (striped == 0).all(dim=2).sum(dim=1)
    bands = (striped == 0).all(dim=1).sum(dim=1)
    assert 0 <= int(rows.min()) < int(rows.max()) == 10
    assert 0 <= int(bands.min()) < int(bands.max()) == 8
    assert set(striped.unique().tolist()) == {0.0, 1.0}


def test_logmel_pools_and_standardises_on_train_only(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    encoder = build("logmel", pool=4, deltas=True)
    ragged = encoder.arrays(info, utterances, store)
    assert ragged.lengths.tolist() == [*encoder.get_feat_lengths(torch.tensor([800, 16_000, 12_345, 40_000])), 0]
    encoder.fit(ragged, np.array([0, 1]))
    found = encoder(ragged.gather(np.arange(5)))
    train = torch.cat([found.values[row][found.mask[row]] for row in (0, 1)])
    np.testing.assert_allclose(train.mean(0).numpy(), 0, atol=1e-3)
    np.testing.assert_allclose(train.std(0, unbiased=False).numpy(), 1, atol=1e-3)


def test_slopes_and_averages_are_their_definitions() -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    for t in range(9):
        total = torch.zeros(3)
        for n in (1, 2):
            total += n * (x[min(8, t + n)] - x[max(0, t - n)])
        torch.testing.assert_close(slopes(x)[t], total / 10)
    expected = torch.stack([x[0:4].mean(0), x[4:8].mean(0), x[8]])
    torch.testing.assert_close(average(x, 4), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60_000))
def test_vggish_examples_are_whole_patches(samples: int) -> None:
    frames = len([start for start in range(0, samples - 399, 160)])
    assert int(patch_count(torch.tensor(samples))) == frames // 96
    if frames >= 96:
        assert patches_of(torch.zeros(samples)).shape == (frames // 96, 96, 64)


def test_vggish_is_the_released_architecture() -> None:
    """Names and shapes of torchvggish's state dict: what its weights are loaded by."""
    with torch.device("meta"):
        state = Vggish().state_dict()
    convs = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    expected = {f"features.{n}.weight": (*shape, 3, 3) for n, shape in convs.items()}
    expected |= {f"features.{n}.bias": (shape[0],) for n, shape in convs.items()}
    linear = {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}
    expected |= {f"embeddings.{n}.weight": shape for n, shape in linear.items()}
    expected |= {f"embeddings.{n}.bias": (shape[0],) for n, shape in linear.items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vggish_weights_load_from_a_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    from mer.encoders import vggish
    from mer.errors import UserError

    made = Vggish(1 / 16)
    path = tmp_path / f"vggish{suffix}"
    torch.save(made.state_dict(), path) if suffix == ".pth" else save_file(made.state_dict(), path)
    loaded = vggish.load_vggish("pretrained", str(path), width=1 / 16)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(UserError, match="is not VGGish"):
        vggish.load_vggish("pretrained", str(path), width=1 / 32)
    path.write_bytes(b"garbage")
    if suffix == ".pth":
        with pytest.raises(UserError, match="cannot be read"):
            vggish.load_vggish("pretrained", str(path))


def test_vggish_trained_equals_extracted(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    frozen = build("vggish", weights="tiny", dtype="float32").arrays(info, utterances, store)
    trained = build("vggish", weights="tiny", train="full").eval()
    with torch.no_grad():
        found = trained(trained.arrays(info, utterances, store).gather(np.arange(5)))
    assert found.lengths.tolist() == frozen.lengths.tolist() == [1, 1, 1, 2, 0]
    for row in range(4):
        np.testing.assert_allclose(found.values[row][found.mask[row]].numpy(), frozen.row(row), atol=1e-5)
    assert load_vggish("tiny", None).embeddings[-2].out_features == 128


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_dual_is_its_two_halves(merge: str, build: Any, corpus: Any, store: Any) -> None:
    """Against a loop: VGGish's frames of each utterance, linear between their centres at that utterance's frames."""
    info, utterances = corpus
    torch.manual_seed(0)
    dual = build("dual", weights="tiny", merge=merge, dtype="float32").eval()
    speech = build("xlsr", weights="tiny", dtype="float32").arrays(info, utterances, store)
    sound = build("vggish", weights="tiny", dtype="float32").arrays(info, utterances, store)
    with torch.no_grad():
        found = dual(dual.arrays(info, utterances, store).gather(np.arange(5)))
    assert found.lengths.tolist() == speech.lengths.tolist()
    for row in range(4):
        size, frames = len(speech.row(row)), sound.row(row)
        at = np.clip((np.arange(size) + 0.5) * len(frames) / size - 0.5, 0, len(frames) - 1)
        resampled = np.stack([np.interp(at, np.arange(len(frames)), band) for band in frames.T], axis=1)
        if merge == "concat":
            expected = np.concatenate([speech.row(row), resampled], axis=1)
        else:
            with torch.no_grad():
                expected = speech.row(row) + dual.project(torch.from_numpy(resampled).float()).numpy()
        np.testing.assert_allclose(found.values[row][found.mask[row]].numpy(), expected, atol=2e-5)


def test_dual_trained_equals_frozen(build: Any, corpus: Any, store: Any) -> None:
    info, utterances = corpus
    frozen = build("dual", weights="tiny", dtype="float32").arrays(info, utterances, store)
    trained = build("dual", weights="tiny", train="full").eval()
    with torch.no_grad():
        found = trained(trained.arrays(info, utterances, store).gather(np.arange(5)))
    for row in range(4):
        np.testing.assert_allclose(found.values[row][found.mask[row]].numpy(), frozen.row(row), atol=5e-5)


def test_standardiser_ignores_what_is_not_training() -> None:
    from mer.encoders.standardise import Standardiser

    frames = np.array([[1, 5, 1e30], [3, 5, -1e30], [np.nan, 0, 0]], dtype=np.float32)
    standardiser = Standardiser(3)
    standardiser.fit(Ragged(frames, np.array([0, 1, 2, 3])), np.array([0, 1]))
    found = standardiser(torch.tensor([[5.0, 7.0, 1e30]]))
    assert found.tolist() == [[3.0, 0.0, 1.0]]
