"""CADGL's speed: building graphs, passing messages, one whole training step and what its parts take.

    python benchmarks/bench_graph.py

Beside it, plain versions of the published approach, written here after its description and the code of its kind:
edges by Python loops over utterances, dialogues padded to the longest, dopri5. One core; ways run in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torchdiffeq import odeint

from mer.batch import Dialogues
from mer.graph.cadgl import CADGL
from mer.graph.edges import Layout, layout, window_edges
from mer.graph.messages import Graph, RelationalMean, adjacency
from mer.graph.ode import GraphODE
from mer.layers import set_generator

Ways = Mapping[str, Callable[[], object]]


def lengths_like_iemocap(dialogues: int = 32) -> np.ndarray:
    """Lengths with IEMOCAP's mean 49, minimum 8 and maximum 110."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.round(random.gamma(8.0, 49 / 8.0, dialogues)), 8, 110).astype(int)
    lengths[0], lengths[1] = 110, 8
    return lengths


def conversations() -> Dialogues:
    lengths = torch.from_numpy(lengths_like_iemocap())
    index = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    speaker = index * 2 + torch.randint(0, 2, index.shape, generator=torch.Generator().manual_seed(0))
    return Dialogues(index, speaker, torch.cat([torch.arange(float(n)) for n in lengths.tolist()]))


def medians(ways: Ways, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time; the ways take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if turn:  # the first round warms up
                times[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def loops(d: Dialogues, past: int | None, future: int | None) -> tuple[Tensor, Tensor]:
    """Edges as published code of this kind builds them: a loop over dialogues, targets and sources."""
    sources, targets, relations = [], [], []
    speaker = d.speaker.tolist()
    start = 0
    for count in torch.bincount(d.index).tolist():
        for target in range(count):
            low = 0 if past is None else max(0, target - past)
            high = count - 1 if future is None else min(count - 1, target + future)
            for source in range(low, high + 1):
                if source != target:
                    sources.append(start + source)
                    targets.append(start + target)
                    same = speaker[start + source] == speaker[start + target]
                    relations.append(2 * (source > target) + (not same))
        start += count
    return torch.tensor([sources, targets]), torch.tensor(relations)


def bench_edges(d: Dialogues) -> None:
    nodes = len(d.index)
    print(f"| window | edges | vectorised, ms | loops, ms | ratio | both sparse matrices, ms |\n|{'---|' * 6}")
    for window in (2, 10, None):
        edges = window_edges(layout(d), window, window)
        index, relation = loops(d, window, window)
        same = set(zip(*index.tolist(), relation.tolist(), strict=True))
        assert same == set(zip(*edges.index.tolist(), edges.relation.tolist(), strict=True))
        fast = medians(
            {
                "edges": lambda w=window: window_edges(layout(d), w, w),  # type: ignore[misc]
                "matrices": lambda e=edges: adjacency(e, nodes),  # type: ignore[misc]
            },
            50,
        )
        slow = medians({"loops": lambda w=window: loops(d, w, w)}, 3)["loops"]  # type: ignore[misc]
        name = "whole dialogue" if window is None else f"{window} + {window}"
        print(
            f"| {name} | {edges.count:,} | {fast['edges']:.2f} | {slow:.0f} | {slow / fast['edges']:.0f} "
            f"| {fast['matrices']:.2f} |"
        )


def bench_messages(d: Dialogues, width: int = 512) -> None:
    """Mean per relation, forward and backward: one sparse product against gathering and scattering."""
    packed = layout(d)
    print(f"\n| window | sparse product, ms | gather and scatter, ms | ratio | of its memory |\n|{'---|' * 5}")
    for window in (10, None):
        edges = window_edges(packed, window, window)
        matrix, mean = adjacency(edges, packed.size), RelationalMean()
        x = torch.randn(packed.size, width, requires_grad=True)
        slot = edges.relation * packed.size + edges.index[1]
        weight = torch.repeat_interleave(1 / edges.bounds.diff().clamp(min=1), edges.bounds.diff())

        def ours(matrix: object = matrix, x: Tensor = x, mean: RelationalMean = mean) -> None:
            mean(x, matrix).sum().backward()

        def gathered(
            slot: Tensor = slot, weight: Tensor = weight, x: Tensor = x, source: Tensor = edges.index[0]
        ) -> None:
            messages = x[source] * weight.unsqueeze(-1)
            torch.zeros(4 * packed.size, width).index_add(0, slot, messages).sum().backward()  # type: ignore[no-untyped-call]

        found = medians({"ours": ours, "gathered": gathered}, 5)
        ratio = found["gathered"] / found["ours"]
        held = 12 * 2 * edges.count / (2 * 4 * width * edges.count)
        name = "whole dialogue" if window is None else f"{window} + {window}"
        print(f"| {name} | {found['ours']:.1f} | {found['gathered']:.1f} | {ratio:.1f} | {held:.1%} |")


class Padded(torch.nn.Module):
    """The published dynamics on padded dialogues: tanh(W [h; neighbour mean]), dense adjacency, padding computed."""

    def __init__(self, ode: GraphODE, adjacency: Tensor) -> None:
        super().__init__()
        self.ode, self.adjacency, self.evaluations = ode, adjacency, 0

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        self.evaluations += 1
        dynamics = self.ode.dynamics
        return torch.tanh(dynamics.own(h) + dynamics.message(self.adjacency @ h))


def bench_ode(d: Dialogues, width: int = 512) -> None:
    """Forward and backward of the ODE, packed rk4 against padded dopri5 of equal error."""
    packed = layout(d)
    edges = window_edges(packed, 10, 10)
    graph = Graph(packed, torch.ones(packed.size, dtype=torch.bool), edges, adjacency(edges, packed.size))
    torch.manual_seed(0)
    ode, exact = GraphODE(width), GraphODE(width, solver="dopri5", tolerance=1e-7)
    exact.load_state_dict(ode.state_dict())
    adaptive = GraphODE(width, solver="dopri5", tolerance=1e-4)
    adaptive.load_state_dict(ode.state_dict())
    h, since = torch.randn(packed.size, width), packed.rank
    with torch.no_grad():
        reference = exact(h, graph, since)
        errors = {
            name: float((s(h, graph, since) - reference).abs().max())
            for name, s in (("rk4", ode), ("dopri5", adaptive))
        }
    counts = torch.bincount(d.index)
    longest = int(counts.max())
    padded = torch.zeros(len(counts), longest, width)
    padded[d.index, packed.rank] = h
    dense = torch.zeros(len(counts), longest, longest)
    dense[d.index[edges.index[1]], packed.rank[edges.index[1]], packed.rank[edges.index[0]]] = 1.0
    dense /= dense.sum(-1, keepdim=True).clamp(min=1)
    plain = Padded(ode, dense)
    times = torch.tensor([0.0, 1.0])

    def ours(solver: GraphODE) -> Callable[[], None]:
        return lambda: solver(h, graph, since).sum().backward()

    def published() -> None:
        plain.evaluations = 0
        odeint(plain, padded, times, rtol=1e-4, atol=1e-4, method="dopri5")[-1].sum().backward()

    found = medians({"rk4": ours(ode), "dopri5": ours(adaptive), "padded": published}, 3)
    padding = padded.shape[0] * padded.shape[1] / packed.size
    print(f"\n| ODE, forward and backward | ms | evaluations | largest error | rows |\n|{'---|' * 5}")
    print(f"| packed, rk4, step 0.25 | {found['rk4']:.0f} | {ode.nfe} | {errors['rk4']:.1e} | {packed.size} |")
    print(f"| packed, dopri5, 1e-4 | {found['dopri5']:.0f} | {adaptive.nfe} | {errors['dopri5']:.1e} | {packed.size} |")
    print(
        f"| padded, dopri5, 1e-4, plain mean over the window | {found['padded']:.0f} | {plain.evaluations} | "
        f"not measured | {padded.shape[0] * padded.shape[1]} ({padding:.2f} times) |"
    )


def bench_step(d: Dialogues, rounds: int) -> None:
    """Forward, backward and update; a part's share is what the step is shorter by without it."""
    packed: Layout = layout(d)
    size = packed.size
    dims = {"audio": 74, "visual": 342, "text": 768}
    inputs = {name: torch.randn(size, dim) for name, dim in dims.items()}
    labels = torch.randint(0, 7, (size,))
    config = {f"{name}_dim": dim for name, dim in dims.items()} | {"hidden_dim": 512, "num_classes": 7}

    def step(**options: object) -> Callable[[], None]:
        torch.manual_seed(0)
        model = CADGL(config | options).train()
        set_generator(model, torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def run() -> None:
            output = model(**inputs, dialogue_ids=d.index, speaker_ids=d.speaker, labels=labels)
            optimizer.zero_grad()
            torch.stack(list(output.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return run

    parts = ("graph", "similarity_edges", "ode", "reconstruction", "alignment", "consistency")
    ways = {"all parts": step()} | {part: step(**{part: False}) for part in parts}
    ways["whole dialogue"] = step(window_past=None, window_future=None)
    ways["adaptive"] = step(solver="dopri5")
    found = medians(ways, rounds)
    full = found["all parts"]
    print(f"\n| training step, hidden 512, {size} utterances | ms per step | ms per utterance | share |\n|{'---|' * 4}")
    print(f"| all parts, rk4, window 10 + 10 | {full:.0f} | {full / size:.2f} | |")
    for part in parts:
        print(f"| without {part} | {found[part]:.0f} | {found[part] / size:.2f} | {1 - found[part] / full:.0%} |")
    for name, label in (("whole dialogue", "all parts, window: the whole dialogue"), ("adaptive", "all parts, dopri5")):
        print(f"| {label} | {found[name]:.0f} | {found[name] / size:.2f} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of training steps, after one to warm up")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    d = conversations()
    print(
        f"32 dialogues, {len(d.index)} utterances, mean {len(d.index) / 32:.0f}, longest 110; CPU time, medians.\n",
        flush=True,
    )
    bench_edges(d)
    bench_messages(d)
    bench_ode(d)
    bench_step(d, rounds)


if __name__ == "__main__":
    main()
