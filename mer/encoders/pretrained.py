"""What all encoders with pretrained bodies share: which weights, how much of the body is trained, and when.

A frozen body is no part of the model (its outputs are in the feature store); a trained one is.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mer import weights
from mer.encoders.base import Encoder
from mer.errors import UserError
from mer.layers import Dropout
from mer.precision import default_device
from mer.streams import derive

if TYPE_CHECKING:
    from mer.data.corpus import CorpusInfo
    from mer.recipe import EncoderConfig

StoreType = Literal["float16", "bfloat16", "float32"]


class Pretrained(Encoder):
    """Base of encoders whose body is a transformers model.

    train: frozen   the body runs once per utterance, through the feature store
           last_k   the last `last_k` layers learn, all below is as in evaluation
           gradual  one more layer from the top each `unfreeze_every` epochs, in the end everything
           full     everything learns
    """

    level: ClassVar[str]
    """The name under which default weights are pinned and tiny ones are drawn."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Parts of the transformers model that never run."""

    body: Any

    def __init__(self, modality: str, config: EncoderConfig, info: CorpusInfo, *, unfreeze_every: int = 1) -> None:
        super().__init__(modality, config, info)
        kind = config.weights or "pretrained"
        self.mode = config.train or ("full" if kind == "scratch" else "frozen")
        if kind == "scratch" and self.mode != "full":
            raise UserError(
                f"encoder {config.name!r}: weights from scratch with train {self.mode!r} would stay random",
                expected="train: full",
            )
        if kind == "tiny" and (config.checkpoint or config.revision):
            raise UserError(
                f"encoder {config.name!r}: tiny weights are random and come from no checkpoint",
                expected="either weights: tiny, or a checkpoint",
            )
        self.unfreeze_every, self.weights_kind = unfreeze_every, kind
        self.trained, self.random_weights = self.mode != "frozen", kind == "tiny"
        self.source = None if kind == "tiny" else weights.locate(self.level, config)
        self.architecture = self._tiny_architecture() if self.source is None else weights.load_config(self.source)
        self._quieten(self.architecture)
        self.body = None

    # What a subclass says of its body.

    def _tiny_architecture(self) -> Any:
        raise NotImplementedError

    def _quieten(self, architecture: Any) -> None:
        """Switch off random processes that draw from numpy, or leave parameters without a gradient."""

    def _body_class(self) -> Any:
        """The transformers class, or None for whatever the configuration says."""
        return None

    def _part(self, model: Any) -> Any:
        """The part of a loaded transformers model that is the body."""
        return model

    def _layers(self) -> Sequence[nn.Module]:
        """Bottom to top."""
        raise NotImplementedError

    def _head(self) -> Sequence[nn.Module]:
        """What comes after the last layer."""
        return ()

    # Weights.

    def weights_identity(self) -> dict[str, object]:
        import transformers

        named = (
            {"weights": f"tiny/{self.level}/1"}
            if self.source is None
            else weights.identity(self.source, self.architecture)
        )
        return {**named, "transformers": transformers.__version__}

    def make_body(self) -> Any:
        """The body with the weights that were asked for."""
        from transformers import AutoModel

        if self.source is not None and self.weights_kind == "pretrained":
            return self._part(weights.load_body(self.source, self.architecture, self._body_class(), self.unused)).eval()
        seed = contextlib.nullcontext() if self.weights_kind == "scratch" else seeded(derive("tiny", self.level))
        with seed:
            kind = self._body_class() or AutoModel
            build = getattr(kind, "from_config", kind)  # the Auto classes cannot be called
            return self._part(build(self.architecture)).float().eval()

    # Training.

    def train_body(self) -> None:
        """Make the body part of the model."""
        self.body, self.draws = self.make_body(), Draws()
        depth = len(self._layers())
        if self.mode == "last_k" and self.config.last_k > depth:
            raise UserError(
                f"encoder {self.config.name!r}: last_k {self.config.last_k}", expected=f"1 to {depth}, its layers"
            )
        self.on_epoch(0)

    def on_epoch(self, epoch: int) -> None:
        if self.body is None:
            return
        layers = self._layers()
        count = {
            "last_k": self.config.last_k,
            "gradual": 1 + epoch // self.unfreeze_every,
            "full": len(layers) + 1,
        }[self.mode]
        self.body.requires_grad_(self.mode != "last_k" and count > len(layers))
        for part in [*layers[max(0, len(layers) - count) :], *self._head()]:
            part.requires_grad_(True)
        self._never_trained()
        self.train(self.training)

    def _never_trained(self) -> None:
        """Parameters that are constants of the architecture."""

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        if mode and self.body is not None:
            for part in self.body.modules():  # frozen parts run as in evaluation: no dropout
                if not any(parameter.requires_grad for parameter in part.parameters()) and any(
                    True for _ in part.parameters()
                ):
                    part.eval()
        return self


class Draws(Dropout):
    """Random numbers of a body that is not ours: every dropout inside draws from a generator seeded by the trial's.

    transformers drops out by functions, which take torch's global generator: it is replaced meanwhile.
    """

    def __init__(self) -> None:
        super().__init__(0.0)

    @contextlib.contextmanager
    def forked(self, device: torch.device) -> Iterator[None]:
        if not self.training:
            yield
            return
        where = device if self.generator is None else self.generator.device
        seed = int(torch.randint(2**62, (), generator=self.generator, device=where))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator at a seed; as it was before, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class LazyBody:
    """A frozen body that is loaded when the first utterance is not in the store, where its model computes."""

    def __init__(self, encoder: Pretrained, bf16: bool) -> None:
        self._encoder = [encoder]  # in a list: a module must not register its own encoder as a part
        self._body: Any = None
        self.bf16 = bf16

    @property
    def device(self) -> torch.device:
        return default_device()

    def get(self) -> Any:
        if self._body is None:
            self._body = self._encoder[0].make_body().requires_grad_(False)
        return self._body.to(self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyBody:
        """A copy of a model shares the frozen body: it never changes, and may be large."""
        made = copy.copy(self)
        memo[id(self)] = made
        made._encoder = copy.deepcopy(self._encoder, memo)
        return made

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def pack(lengths: Sequence[int], budget: int, equal: bool = False) -> list[list[int]]:
    """Positions in batches of at most `budget` padded elements (or one utterance), longest first.

    With `equal`, only utterances of the same length share a batch.

    >>> pack([3, 9, 3, 4], budget=9)
    [[1], [3, 0], [2]]
    >>> pack([3, 9, 3, 4], budget=9, equal=True)
    [[1], [3], [0, 2]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            longest = lengths[batches[-1][0]]
            fits = (len(batches[-1]) + 1) * longest <= budget
            if fits and (not equal or longest == lengths[position]):
                batches[-1].append(position)
                continue
        batches.append([position])
    return batches


def stream(clips: Iterable[Tensor], budget: int, equal: bool = False) -> Iterator[list[tuple[int, Tensor]]]:
    """As `pack`, of clips as they are decoded: batches of (position, clip), each as soon as it is full.

    Clips should come sorted by length, which they need not be to the sample.

    >>> [[len(clip) for _, clip in batch] for batch in stream([torch.ones(n) for n in (9, 4, 3, 3)], budget=9)]
    [[9], [4, 3], [3]]
    """
    batch: list[tuple[int, Tensor]] = []
    for position, clip in enumerate(clips):
        longest = max([len(clip), *(len(other) for _, other in batch)])
        fits = (len(batch) + 1) * longest <= budget
        if batch and not (fits and (not equal or len(batch[0][1]) == len(clip))):
            yield batch
            batch = []
        batch.append((position, clip))
    if batch:
        yield batch


def hidden(body: Any, layer: int, **inputs: Any) -> Tensor:
    """`[B, T, D]`: the last hidden state, or the output of layer `layer` (0: what enters the first layer)."""
    if layer == -1:
        last: Tensor = body(**inputs).last_hidden_state
        return last
    states = body(**inputs, output_hidden_states=True).hidden_states
    found: Tensor = states[layer]
    return found


def check_layer(layer: int, depth: int, name: str) -> None:
    if not -depth - 1 <= layer <= depth:
        raise UserError(f"encoder {name!r}: layer {layer}", expected=f"-1 (the last) or 0 to {depth}")
