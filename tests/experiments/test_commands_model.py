"""`mer train`, `evaluate`, `predict` on a corpus of sentences; interrupted training goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from mer import training

WORDS = {"glad": ["vui", "tuyệt", "cười"], "sad": ["buồn", "khóc", "mất"]}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus, a recipe and a feature store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus").mkdir()
    for split, size in (("train", 24), ("valid", 8), ("test", 8)):
        lines = []
        for number in range(size):
            emotion = ("glad", "sad")[number % 2]
            words = f"hôm nay {WORDS[emotion][number % 3]} quá {number}"
            lines.append(
                {"utterance_id": f"{split}{number}", "speaker_id": split, "transcript": words, "emotion": emotion}
            )
        (tmp_path / "corpus" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "corpus: corpus\nseed: 3\nencoders: {text: words}\nfusion: {name: none, layers: 0}\n"
        "projection: {dim: 16}\nsampler: {batch_size: 4}\noptimizer: {lr: 1e-2}\ntraining: {epochs: 6}\n"
    )
    return tmp_path


def test_train_evaluate_predict(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0
    assert sorted(path.name for path in (workplace / "models" / "m").iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "tensorboard",
    ]
    assert [path.name for path in (workplace / "models").iterdir()] == ["m"]
    capsys.readouterr()
    assert main(["evaluate", "models/m", "corpus", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["utterances"] == 8
    assert scores["scores"]["complete"]["ua"] == 1.0
    assert main(["predict", "models/m", "--text", "tuyệt quá", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["emotion"] == "glad"
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_model_is_scored_as_it_was_validated(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = workplace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 6", "epochs: 2, precision: bf16").replace("1e-2", "1e-3"))
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0
    found = {}
    for way in ([], ["--precision", "bf16"], ["--precision", "fp32", "--device", "cpu"]):
        capsys.readouterr()
        assert main(["predict", "models/m", "--text", "tuyệt quá", "--json", *way]) == 0
        found[" ".join(way)] = json.loads(capsys.readouterr().out)["probabilities"]
        assert main(["evaluate", "models/m", "corpus", *way]) == 0
    as_trained, half, single = found.values()
    assert as_trained == half != single


def test_a_device_that_is_not_here_is_refused_at_once(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train", "recipe.yaml"], ["evaluate", "nowhere", "corpus"], ["predict", "nowhere", "--text", "a"]):
        assert main([*command, "--device", "cuda:99"]) == 2
        assert "device 'cuda:99'" in capsys.readouterr().err


class Killed(BaseException):
    pass


def test_interrupted_training_goes_on_and_ends_the_same(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", "recipe.yaml", "--output", "models/whole"]) == 0
    epochs = training.Trainer.epoch
    left = iter(range(3))

    def killed_in_the_fourth(self: training.Trainer) -> training.EpochReport:
        if next(left, None) is None:
            raise Killed
        return epochs(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "epoch", killed_in_the_fourth)
        with pytest.raises(Killed):
            main(["train", "recipe.yaml", "--output", "models/resumed"])
    assert not (workplace / "models" / "resumed").exists()
    trained = count_epochs(monkeypatch)
    assert main(["train", "recipe.yaml", "--output", "models/resumed"]) == 0
    assert trained == [4, 5, 6]
    whole, resumed = (workplace / "models" / name / "model.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert list((workplace / "models").glob("_*")) == []


def count_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every epoch trained from now on."""
    original = training.Trainer.epoch
    trained: list[int] = []

    def counted(self: training.Trainer) -> training.EpochReport:
        report = original(self)
        trained.append(report.epoch)
        return report

    monkeypatch.setattr(training.Trainer, "epoch", counted)
    return trained


def test_another_recipe_does_not_go_on_with_what_was_interrupted(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = training.Trainer.epoch
    done: list[int] = []

    def once(self: training.Trainer) -> training.EpochReport:
        if done:
            raise Killed
        done.append(1)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "epoch", once)
        with pytest.raises(Killed):
            main(["train", "recipe.yaml", "--output", "models/m"])
    assert main(["train", "recipe.yaml", "--output", "models/m", "--seed", "4"]) == 2
    assert "another recipe, corpus or seed" in capsys.readouterr().err


def test_a_folder_that_holds_anything_but_a_model_is_not_replaced(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model takes the place of its folder: whatever else lay there would be gone."""
    mine = workplace / "mine"
    (mine / "chapters").mkdir(parents=True)
    (mine / "thesis.tex").write_text("x")
    trained = count_epochs(monkeypatch)
    for output in ("mine", "mine/thesis.tex", "."):
        assert main(["train", "recipe.yaml", "--output", output]) == 2
        assert "a new or empty folder" in capsys.readouterr().err
    assert trained == []
    assert sorted(path.name for path in mine.iterdir()) == ["chapters", "thesis.tex"]
    monkeypatch.chdir(mine / "chapters")
    for _ in range(2):  # empty, and then that of an earlier model
        assert main(["train", "../../recipe.yaml", "--data", "../../corpus", "--output", "."]) == 0
        monkeypatch.chdir(mine / "chapters")  # the same name, another folder
    assert (mine / "chapters" / "config.json").is_file()


@pytest.mark.parametrize("output", ["/proc/m", "/proc/models/m", "/dev/null/m", "recipe.yaml/m", "n" * 300])
def test_a_place_where_no_model_can_be_written_is_refused_before_training(
    output: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = count_epochs(monkeypatch)
    assert main(["train", "recipe.yaml", "--output", output]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert trained == []


def test_what_comes_into_the_folder_during_training_stays(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no epoch is trained again once it has been taken elsewhere, not even those since the last state."""
    output = workplace / "models" / "m"
    original = training.Trainer.epoch

    def written_into(self: training.Trainer) -> training.EpochReport:
        output.mkdir(exist_ok=True)
        (output / "notes.txt").write_text("lr 1e-2 looks good")
        return original(self)

    command = ["train", "recipe.yaml", "--output", "models/m", "--save-every", "5"]
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "epoch", written_into)
        assert main(command) == 2
    assert "holds 'notes.txt'" in capsys.readouterr().err
    (output / "notes.txt").rename(workplace / "notes.txt")
    trained = count_epochs(monkeypatch)
    assert main(command) == 0
    assert trained == []


def test_two_trainings_into_one_folder(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused while the first is at work, and the model is the first one's."""
    original = training.Trainer.epoch
    second: list[int] = []

    def meanwhile(self: training.Trainer) -> training.EpochReport:
        if not second:
            second.append(main(["train", "recipe.yaml", "--output", "models/m", "--seed", "4"]))
        return original(self)

    assert main(["train", "recipe.yaml", "--output", "models/alone"]) == 0
    monkeypatch.setattr(training.Trainer, "epoch", meanwhile)
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0
    assert second == [2]
    assert "another `mer train` is at work" in capsys.readouterr().err
    models = [(workplace / "models" / name / "model.safetensors").read_bytes() for name in ("alone", "m")]
    assert models[0] == models[1]
    assert list((workplace / "models").glob("_*")) == []


def test_where_a_file_system_has_no_locks_training_goes_on(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0


def test_training_that_loses_its_numbers_ends_in_words(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = workplace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 1e-2", "lr: 1e+30"))
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 2
    assert "non-finite in epoch" in capsys.readouterr().err
    assert not (workplace / "models" / "m").exists()


@pytest.mark.parametrize("damage", ["flipped", "cut off", "empty", "of text", "a folder"])
def test_a_damaged_state_of_an_interrupted_training_is_named(
    damage: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch loads a state of which bits have flipped, and the model would be another one."""
    with monkeypatch.context() as patch:
        patch.setattr("mer.fit.save_checkpoint", lambda *args, **more: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            main(["train", "recipe.yaml", "--output", "models/m"])
    state = workplace / "models" / "_m_state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.unlink()
    if damage == "a folder":
        state.mkdir()
    else:
        state.write_bytes(
            {"flipped": bytes(data), "cut off": bytes(data[:-9]), "empty": b"", "of text": b"epoch 3"}[damage]
        )
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 2
    assert "_m_state.pt" in capsys.readouterr().err


def test_training_goes_on_without_its_curves(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are a side output: where they cannot be written the model is the same, and it is said once."""
    assert main(["train", "recipe.yaml", "--output", "models/whole"]) == 0

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    (workplace / "models" / "_taken.tensorboard").write_text("not a folder")
    assert main(["train", "recipe.yaml", "--output", "models/taken"]) == 0
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert main(["train", "recipe.yaml", "--output", "models/full"]) == 0
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["no curves for TensorBoard"] * 2
    models = [(workplace / "models" / name / "model.safetensors").read_bytes() for name in ("whole", "taken", "full")]
    assert len(set(models)) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["predict", "nowhere", "--text", "a"], "no checkpoint here"),
        (["predict", "nowhere"], "nothing to predict from"),
        (["predict", "nowhere", "no.wav"], "no.wav: no such file"),
        (["evaluate", "nowhere", "corpus"], "no checkpoint here"),
        (["train", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes(workplace: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str) -> None:
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0
    path = workplace / "models" / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert main(["evaluate", "models/m", "corpus"]) == 2
    assert "damaged: model.safetensors changed" in capsys.readouterr().err


def test_a_model_whose_modalities_are_not_in_alphabetical_order_scores_as_it_did(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written with sorted keys, it came back with its modalities in another order: another model."""
    (workplace / "two.yaml").write_text(
        "corpus: demo\nseed: 3\nencoders: {text: words, audio: logmel}\nfusion: concat\npooling: cls\n"
        "projection: {dim: 16}\noptimizer: {lr: 5e-3}\ntraining: {epochs: 2}\n"
    )
    assert main(["train", "two.yaml", "--output", "models/two"]) == 0
    trained = json.loads((workplace / "models" / "two" / "config.json").read_text())["valid"]
    capsys.readouterr()
    assert main(["evaluate", "models/two", "demo", "--split", "valid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["complete"] == trained


@pytest.mark.parametrize("name", ["subprocess:call", "subprocess:Popen", "evil_gate:Gate"])
@pytest.mark.parametrize("command", [["evaluate", "models/m", "corpus"], ["predict", "models/m", "--text", "vui"]])
def test_a_model_from_elsewhere_runs_no_code(
    name: str, command: list[str], workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mer.files import write_sums

    (workplace / "evil_gate.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(str(workplace))
    assert main(["train", "recipe.yaml", "--output", "models/m"]) == 0
    folder = workplace / "models" / "m"
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["fusion"] = {"name": name}
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder, ("config.json", "model.safetensors"))
    assert main(command) == 2
    assert f"fusion names code from outside this project: {name!r}" in capsys.readouterr().err
    assert main([*command, "--allow-outside", name]) == 2  # typed, and still no fusion
    assert not (workplace / "ran").exists()


def test_a_recipe_of_the_user_names_levels_of_their_kind(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (workplace / "recipe.yaml").read_text()
    (workplace / "odd.yaml").write_text(text.replace("{name: none, layers: 0}", "subprocess:Popen"))
    assert main(["train", "odd.yaml"]) == 2
    assert "subprocess:Popen is not a fusion; expected a class that extends mer.fusion.base.Fusion" in (
        capsys.readouterr().err
    )
