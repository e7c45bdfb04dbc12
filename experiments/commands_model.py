"""`mer train`, `mer evaluate`, `mer predict`: what a person does with a single model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.commandline import add_allow_outside, add_json, real, whole
from mer.errors import UserError, inside

if TYPE_CHECKING:
    from mer.checkpoint import Checkpoint
    from mer.data.corpus import Corpus, CorpusInfo
    from mer.recipe import Recipe


DEVICE = "cpu, cuda, cuda:1, or auto: a GPU if there is one (default: auto)"
MODEL = "folder of a model: config.json and model.safetensors"


def add_parser(subparsers: Any) -> None:
    train = subparsers.add_parser(
        "train",
        help="train one model from a YAML recipe",
        description="Train one model. After an interruption the same command goes on where it ended.",
    )
    train.add_argument(
        "config", type=Path, metavar="FILE.yaml", help=" corpus, seed (optional) and the fields of a recipe"
    )
    train.add_argument("--data", metavar="FOLDER|demo", help="corpus in place of the file's `corpus:`")
    train.add_argument(
        "--output",
        type=Path,
        default=Path("models/model"),
        metavar="DIR",
        help="folder of the model (default: %(default)s)",
    )
    train.add_argument(
        "--seed", type=whole(), metavar="N", help="root of all random streams (default: the file's `seed:`, else 0)"
    )
    train.add_argument("--device", metavar="NAME", help=DEVICE)
    train.add_argument(
        "--save-every",
        type=whole(1),
        default=1,
        metavar="N",
        help="save the state to go on from every N epochs (default: 1)",
    )
    train.set_defaults(func=run_train)

    evaluate = subparsers.add_parser(
        "evaluate",
        help="score a model on a corpus",
        description="Every metric, in per cent, under each condition.",
    )
    evaluate.add_argument("checkpoint", type=Path, metavar="MODEL", help=MODEL)
    evaluate.add_argument("corpus", metavar="FOLDER|demo", help="corpus folder, or demo")
    evaluate.add_argument(
        "--split", choices=("train", "valid", "test"), default="test", help="what is scored (default: %(default)s)"
    )
    evaluate.add_argument(
        "--conditions",
        nargs="*",
        default=["complete"],
        metavar="NAME",
        help="complete, all_patterns, 'only text', or missing rates such as 0.3 (default: complete)",
    )
    evaluate.add_argument(
        "--seed", type=whole(), default=0, metavar="N", help="of the missing masks (default: %(default)s)"
    )
    _add_reading(evaluate)
    add_json(evaluate)
    evaluate.set_defaults(func=run_evaluate)

    predict = subparsers.add_parser(
        "predict",
        help="the emotion of one recording, one sentence, or both",
        description="The probability of each emotion, most probable first.",
    )
    predict.add_argument("checkpoint", type=Path, metavar="MODEL", help=MODEL)
    predict.add_argument("wav", type=Path, nargs="?", metavar="WAV", help="wav or flac file")
    predict.add_argument("--text", help="its transcript")
    predict.add_argument("--start", type=real(0), metavar="SECONDS", help="where it begins in the recording")
    predict.add_argument("--end", type=real(0), metavar="SECONDS", help="where it ends")
    _add_reading(predict)
    add_json(predict)
    predict.set_defaults(func=run_predict)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modalities",
        type=lambda text: text.split(","),
        metavar="NAME,NAME",
        help="their order, for a model that was saved without it",
    )
    parser.add_argument("--device", metavar="NAME", help=DEVICE)
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="of the model (default: the one it was trained and validated in)",
    )
    add_allow_outside(parser)


def run_train(args: argparse.Namespace) -> int:
    recipe, corpus_name, seed = read_config(args.config)
    corpus = open_corpus(args.data or corpus_name)
    from mer.fit import fit
    from mer.precision import find_device
    from mer.streams import streams
    from mer.training import Diverged, EpochReport

    def show(report: EpochReport) -> None:
        scores = "  ".join(f"{name} {100 * value:5.1f}" for name, value in report.valid.items())
        star = "  best so far" if report.is_best else ""
        print(f"epoch {report.epoch:3d}  loss {report.train_loss:.4f}  valid: {scores}{star}", flush=True)

    root = args.seed if args.seed is not None else seed
    try:
        trainer = fit(
            recipe,
            corpus.train_valid(),
            streams(root, corpus.info.name, 0, 0, "confirm"),
            args.output,
            device=str(find_device(args.device)),
            save_every=args.save_every,
            on_epoch=show,
        )
    except Diverged as error:
        hint = "Nothing of it is a model. A smaller optimizer.lr, or optimizer.grad_clip, keeps numbers finite."
        raise UserError(f"training ended: {error}", where=str(args.config), hint=hint) from None
    print(f"best epoch {trainer.best_epoch}: valid {recipe.training.metric} {100 * trainer.best_value:.1f}")
    print(f"checkpoint: {args.output}")
    _warn_of_what_is_not_real(corpus.info, any(e.random_weights for e in trainer.model.encoder_table().values()))
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from mer.data.conditions import conditions
    from mer.precision import find_device

    device = find_device(args.device)
    checkpoint = open_checkpoint(args)
    corpus = open_corpus(args.corpus)
    utterances = getattr(corpus, args.split)
    wanted = conditions([_rate(name) for name in args.conditions], checkpoint.recipe.modalities)
    found = checkpoint.predict(corpus.info, utterances, wanted, seed=args.seed, device=device, precision=args.precision)
    results = {name: predictions.scores() for name, predictions in found.items()}
    if args.json:
        print(json.dumps({"split": args.split, "utterances": len(utterances), "scores": results}, indent=1))
        return 0
    print(f"{corpus.info.name}, {args.split}, {len(utterances)} utterances, per cent")
    names = list(next(iter(results.values())))
    width = max(len(name) for name in results)
    print(" " * width, *(f"{name:>12}" for name in names))
    for condition_name, scores in results.items():
        print(f"{condition_name:{width}}", *(f"{100 * scores[name]:12.1f}" for name in names))
    _warn_of_what_is_not_real(corpus.info, any(e.random_weights for e in checkpoint.model.encoder_table().values()))
    return 0


def run_predict(args: argparse.Namespace) -> int:
    if args.wav is None and args.text is None:
        raise UserError("nothing to predict from", expected="a wav file, --text, or both")
    if args.wav is not None and not args.wav.is_file():
        raise UserError("no such file", where=str(args.wav))
    from mer.data.corpus import Utterance
    from mer.precision import find_device

    device = find_device(args.device)
    checkpoint = open_checkpoint(args)
    reads_features = [name for name, config in checkpoint.recipe.encoders.items() if config.name == "features"]
    if reads_features:
        raise UserError(
            f"this model reads pre-extracted features ({', '.join(reads_features)}), which a recording has not",
            where=str(args.checkpoint),
            hint="Use `mer evaluate` with a corpus that has them.",
        )
    utterance = Utterance(
        id="input",
        speaker="unknown",
        emotion=checkpoint.info.labels[0],  # a placeholder: nothing reads it
        source="command line",
        wav=args.wav.name if args.wav else None,
        start=args.start,
        end=args.end,
        transcript=args.text,
    )
    folder = args.wav.resolve().parent if args.wav else Path()
    info = dataclasses.replace(checkpoint.info, folder=folder)
    [found] = checkpoint.predict(info, [utterance], may_lack=True, device=device, precision=args.precision).values()
    probabilities = dict(zip(info.labels, map(float, found.probabilities[0]), strict=True))
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    if args.json:
        print(json.dumps({"emotion": ranked[0][0], "probabilities": probabilities}, ensure_ascii=False))
        return 0
    for label, probability in ranked:
        print(f"{label:20} {probability:6.1%}")
    return 0


def open_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """The model that a command names; one of a run is the one that the ledger beside it has on record."""
    from mer.checkpoint import load_checkpoint

    folder = Path(args.checkpoint).resolve()
    results, digests = folder.parent.parent, frozenset[str]()
    if folder.parent.name == "checkpoints" and (results / "ledger").is_dir():
        from experiments.results.ledger import Ledger

        digests = Ledger(str(results)).refresh().models(folder.name)
    return load_checkpoint(
        args.checkpoint, digests=digests, modalities=args.modalities, allow_outside=args.allow_outside
    )


def open_corpus(name: str | None) -> Corpus:
    """A corpus by folder, or `demo`."""
    from mer.data.corpus import load_corpus
    from mer.data.places import find_corpus

    if name is None:
        raise UserError("no corpus named", expected="`corpus:` in the file, or --data FOLDER")
    folder = find_corpus(name)
    with inside(folder):
        return load_corpus(folder)


def read_config(path: Path) -> tuple[Recipe, str | None, int]:
    """A training file: `corpus`, `seed`, and the fields of a recipe beside them."""
    from experiments.space.yaml_text import load_recipe_file

    return load_recipe_file(path)


def _rate(name: str) -> str | float:
    try:
        return float(name)
    except ValueError:
        return name


def _warn_of_what_is_not_real(info: CorpusInfo, random_weights: bool) -> None:
    if info.synthetic:
        print("note: the corpus is synthetic; its numbers say nothing about people")
    if random_weights:
        print("note: an encoder has random weights")
