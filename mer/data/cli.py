"""`mer data`: look at a corpus, import one, make the demo corpus. Heavy imports wait until a command runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from mer.commandline import add_json, real, whole

PT_OPTIONS = {
    "train_speech_features": "speech of train: {x, m, y}, loaded as weights only",
    "train_text_features": "text of train",
    "val_speech_features": "speech of valid",
    "val_text_features": "text of valid",
    "test_speech_features": "speech of test",
    "test_text_features": "text of test",
    "csv_path": "rows of train and valid: label, emotion_name, file_path, transcript",
    "test_csv_path": "rows of test",
}
"""The options of the fusion pipeline's own script, and what each file holds."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `data` with its subcommands; each sets `func`, a function of the arguments that returns the exit code."""
    data: argparse.ArgumentParser = subparsers.add_parser("data", help="look at, import or make a corpus")
    verbs = data.add_subparsers(dest="verb", title="commands", required=True, metavar="COMMAND")

    check = verbs.add_parser("check", help="a page to read before training; exit code 2 if it cannot be trained on")
    check.add_argument("folder", metavar="FOLDER", help="a corpus folder, or a name below the data folder, or demo")
    add_json(check)
    check.add_argument("--no-audio", action="store_true", help="do not decode the audio")
    check.set_defaults(func=run_check)

    importer = verbs.add_parser("import", help="write a corpus folder from files of another format")
    sources = importer.add_subparsers(dest="source_format", title="formats", required=True, metavar="FORMAT")

    pt = sources.add_parser("pt", help="the fusion pipeline's .pt files and CSVs")
    pt.add_argument("folder", metavar="FOLDER", help="the corpus folder to write")
    for option in PT_OPTIONS:
        pt.add_argument(
            f"--{option}", required=True, metavar="CSV" if "csv" in option else "PT", help=PT_OPTIONS[option]
        )
    pt.add_argument("--name", help="name of the corpus (default: of the folder)")
    pt.add_argument("--language", metavar="CODE", help="such as en or vi")
    pt.set_defaults(func=run_import_pt)

    conversation = sources.add_parser("conversation", help="conversation pickles: MMGCN, MM-DFN, DialogueRNN, GCNet")
    conversation.add_argument("source", metavar="PICKLE", help="read without running anything that is in it")
    conversation.add_argument("folder", metavar="FOLDER", help="the corpus folder to write")
    conversation.add_argument(
        "--labels", type=_listed, metavar="NAME,NAME", help="names of the labels 0, 1, ..., separated by commas"
    )
    conversation.add_argument(
        "--features",
        action="append",
        type=_pair,
        default=[],
        metavar="MODALITY=FOLDER",
        help="folder of .npy files by utterance (GCNet)",
    )
    conversation.add_argument(
        "--valid-share",
        type=real(0, 1),
        default=0.1,
        metavar="SHARE",
        help="of train's dialogues that become valid, where none is named (default: %(default)s)",
    )
    conversation.add_argument(
        "--seed", type=whole(), default=0, metavar="N", help="which dialogues become valid (default: %(default)s)"
    )
    conversation.add_argument("--name", help="name of the corpus (default: of the pickle)")
    conversation.set_defaults(func=run_import_conversation)

    meld = sources.add_parser("meld", help="MELD's three csv files")
    meld.add_argument("source", metavar="SOURCE", help="folder of train_, dev_ and test_sent_emo.csv")
    meld.add_argument("folder", metavar="FOLDER", help="the corpus folder to write")
    meld.add_argument("--name", default="meld", help="name of the corpus (default: %(default)s)")
    meld.set_defaults(func=run_import_meld)

    demo = verbs.add_parser("demo", help="make the synthetic demo corpus, and say where it is")
    demo.add_argument("folder", metavar="FOLDER", nargs="?", help="where to make it (default: in the cache folder)")
    demo.set_defaults(func=run_demo)
    return data


def run_check(args: argparse.Namespace) -> int:
    from mer.data.check import check_corpus
    from mer.data.places import find_corpus

    found = check_corpus(find_corpus(args.folder), audio=not args.no_audio)
    text = json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n" if args.json else found.page()
    sys.stdout.write(text)
    return 2 if found.has_errors else 0


def run_import_pt(args: argparse.Namespace) -> int:
    from mer.data.importers.pt import import_pt

    options = {option: getattr(args, option) for option in PT_OPTIONS}
    return _written(import_pt(args.folder, name=args.name, language=args.language, **options))


def run_import_conversation(args: argparse.Namespace) -> int:
    from mer.data.importers.conversation_pickles import import_conversation

    folder = import_conversation(
        args.source,
        args.folder,
        labels=args.labels,
        features=dict(args.features),
        valid_share=args.valid_share,
        seed=args.seed,
        name=args.name,
    )
    return _written(folder)


def run_import_meld(args: argparse.Namespace) -> int:
    from mer.data.importers.meld_csv import import_meld

    return _written(import_meld(args.source, args.folder, name=args.name))


def run_demo(args: argparse.Namespace) -> int:
    from mer.data.demo import demo_corpus, make_demo

    folder = make_demo(args.folder) if args.folder else demo_corpus()
    sys.stdout.write(f"{folder}\n")
    return 0


def _written(folder: object) -> int:
    sys.stdout.write(f"wrote {folder}; now look at it: mer data check {folder}\n")
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pair(text: str) -> tuple[str, str]:
    modality, equals, folder = text.partition("=")
    if not (modality and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY=FOLDER")
    return modality, folder
