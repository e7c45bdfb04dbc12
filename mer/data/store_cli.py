"""`mer features ls | build | verify | prune`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.commandline import add_json, real
from mer.errors import UserError

if TYPE_CHECKING:
    from mer.recipe import EncoderConfig

Wanted = list[tuple[str, "EncoderConfig"]]
SpaceEncoders = Callable[[str, str], Wanted]
"""(space, corpus) to the encoders of its cells, each with its modality."""

DIGEST = "only these; the beginning of a digest suffices (default: all)"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_parser(subparsers: Any, space_encoders: SpaceEncoders | None = None) -> None:
    """Add `mer features`; `space_encoders` makes `build --space` possible."""
    features = subparsers.add_parser(
        "features",
        help="the feature store: list, fill, check, clear",
        description="What frozen encoders compute once for all trials of all runs.",
    )
    features.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="the store (default: in MER_CACHE, else in the user's cache folder)",
    )
    commands = features.add_subparsers(title="commands", metavar="COMMAND", required=True)

    ls = commands.add_parser("ls", help="list what is in it")
    ls.add_argument("digest", nargs="*", metavar="DIGEST", help=DIGEST)
    ls.add_argument("--long", action="store_true", help="everything that identifies a frontend")
    add_json(ls)
    ls.set_defaults(func=run_ls)

    build = commands.add_parser("build", help="fill it before a run")
    build.add_argument("corpus", metavar="FOLDER|demo", help="corpus folder, or demo")
    build.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="MODALITY=ENCODER",
        help="text=phobert, or audio='{name: wav2vec2, checkpoint: FOLDER}'; may be repeated",
    )
    if space_encoders is not None:
        build.add_argument("--space", metavar="NAME|FILE", help="all encoders of a space's cells")
    build.set_defaults(func=run_build, space=None, space_encoders=space_encoders)

    verify = commands.add_parser("verify", help="check every byte; exit code 1 if something is damaged")
    verify.add_argument("digest", nargs="*", metavar="DIGEST", help=DIGEST)
    verify.add_argument("--remove", action="store_true", help="remove what is damaged; it is rebuilt when needed")
    verify.set_defaults(func=run_verify)

    prune = commands.add_parser("prune", help="remove what is no longer used")
    prune.add_argument("digest", nargs="*", metavar="DIGEST", help=DIGEST)
    prune.add_argument(
        "--unused-for", type=real(0), metavar="DAYS", help="remove what no run has read for so many days"
    )
    prune.add_argument("--keep", metavar="SIZE", help="such as 20G: remove the least recently used beyond it")
    prune.add_argument("--all", action="store_true", help="remove everything")
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    prune.set_defaults(func=run_prune)


def run_ls(args: argparse.Namespace) -> int:
    import json
    import time

    from mer.data.store.admin import entries

    found = entries(_root(args), args.digest)
    if args.json:
        rows = [
            {
                "digest": e.digest, **e.description, "items": e.items, "frames": e.frames, "shards": e.shards,
                "bytes": e.bytes, "used": e.used, "damaged": len(e.damaged),
            }
            for e in found
        ]  # fmt: skip
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    if not found:
        print(f"{_root(args)} holds no features")
        return 0
    print(f"{'digest':8}  {'kind':5} {'dim':>5} {'type':8} {'utterances':>10} {'frames':>11} {'size':>9}  last used")
    for e in found:
        d = e.description
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))
        print(
            f"{e.digest[:8]}  {d.get('kind', '?'):5} {d.get('dim', '?'):>5} {d.get('dtype', '?'):8} "
            f"{e.items:10} {e.frames:11} {_size(e.bytes):>9}  {used}"
        )
        if args.long:
            print(
                "          "
                + json.dumps(d.get("identity"), ensure_ascii=False, indent=2).replace("\n", "\n" + " " * 10)
            )
        else:
            print("          " + e.summary())
        for path, reason in e.damaged.items():
            print(f"          damaged: {path.name}: {reason}")
    print(f"{len(found)} frontends, {_size(sum(e.bytes for e in found))} in {_root(args)}")
    return 0


def run_build(args: argparse.Namespace) -> int:
    wanted: Wanted = [_encoder(text) for text in args.encoder]
    if args.space is not None:
        wanted += args.space_encoders(args.space, args.corpus)
    if not wanted:
        raise UserError("nothing to build", expected="--encoder MODALITY=ENCODER or --space NAME")

    from mer.data.corpus import load_corpus
    from mer.data.places import find_corpus
    from mer.data.store.shared import open_features
    from mer.encoders import build_encoder

    corpus = load_corpus(find_corpus(args.corpus))
    store = open_features(_root(args))
    utterances = tuple(corpus.utterances())
    built: set[Path] = set()
    for modality, config in wanted:
        encoder = build_encoder(modality, config, corpus.info)
        label = f"{modality} {config.name}"
        if encoder.frontend is None:
            print(f"{label}: nothing to compute, it reads the corpus's own features")
            continue
        folder = store.folder(encoder.frontend)
        if folder in built:
            continue
        built.add(folder)
        items = [encoder.item(corpus.info, utterance) for utterance in utterances]
        there = store.has(encoder.frontend, items)
        todo = there.count(False)
        print(f"{label}: {len(items)} utterances, {todo} to compute ({folder.name[:8]})", flush=True)
        found = store.get(encoder.frontend, items, lambda done, of: print(f"  {done} of {of}", flush=True))
        random = "; weights are random" if encoder.random_weights else ""
        print(f"  {int(found.lengths.sum())} frames of {found.dim or 1} {found.dtype}, {_size(found.nbytes)}{random}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    from mer.data.store.admin import entries, remove_damaged

    bad = 0
    for entry in entries(_root(args), args.digest, frames=True):
        sound = f"{entry.digest[:8]}  {entry.items} utterances in {entry.shards} files, {_size(entry.bytes)}"
        print(f"{sound}: {'damaged' if entry.damaged else 'sound'}")
        for path, reason in entry.damaged.items():
            print(f"          {path.name}: {reason}{' (removed)' if args.remove else ''}")
        bad += len(entry.damaged)
        if args.remove:
            remove_damaged(entry)
    if bad and not args.remove:
        print(f"{bad} damaged files; they are never read, and are rebuilt when needed (or now: --remove)")
    return 1 if bad else 0


def run_prune(args: argparse.Namespace) -> int:
    from mer.data.store.admin import entries, remove, to_prune

    if not (args.all or args.digest or args.keep is not None or args.unused_for is not None):
        raise UserError("nothing said about what may go", expected="--unused-for DAYS, --keep SIZE, digests, or --all")
    days = None if args.unused_for is None else args.unused_for * 86400
    keep = None if args.keep is None else parse_size(args.keep)
    gone = to_prune(entries(_root(args), args.digest), days, keep)
    verb = "would remove" if args.dry_run else "removed"
    for entry in gone:
        print(f"{verb} {entry.digest[:8]}  {_size(entry.bytes)}  {entry.summary()}")
        if not args.dry_run:
            remove(entry)
    print(f"{len(gone)} frontends, {_size(sum(entry.bytes for entry in gone))}")
    return 0


def parse_size(text: str) -> int:
    """Bytes of `20G`, `1.5 TB`, `300M`.

    >>> parse_size("1.5 GB")
    1500000000
    """
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)B?\s*", text.upper())
    if match is None:
        raise UserError(f"size {text!r}", where="--keep", expected="a number with K, M, G or T, such as 20G")
    return int(float(match[1]) * _UNITS[match[2]])


def _encoder(text: str) -> tuple[str, EncoderConfig]:
    """`text=phobert` or `text={name: phobert, revision: main}`."""
    from pydantic import ValidationError

    from mer.recipe import EncoderConfig
    from mer.yaml_text import parse_yaml

    modality, equals, value = text.partition("=")
    where = f"--encoder {text}"
    if not equals or not modality.strip() or not value.strip():
        raise UserError("not an encoder", where=where, expected="MODALITY=ENCODER, such as text=phobert")
    try:
        settings = parse_yaml(value, where, "{name: phobert, revision: main}")
        settings = {"name": settings} if isinstance(settings, str) else settings
        return modality.strip(), EncoderConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{key}: {first['msg']}" if key else first["msg"], where=where) from None


def _root(args: argparse.Namespace) -> Path:
    from mer.data.fingerprint import cache_root

    store: Path | None = args.store
    return store if store is not None else cache_root()


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
