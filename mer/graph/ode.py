"""The dynamic graph ODE: node states that flow along the dialogue graph in continuous time."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from mer.graph.edges import RELATIONS
from mer.graph.messages import Graph, RelationalMean, WeightedSum
from mer.precision import wide


class Dynamics(nn.Module):
    """dH/dt = tanh(W_h h + W_m (sum_r g_r(t) * mean_r(h) + g_s(t) * sum_j w_ij h_j) + W_t [t, phi(time_i)]).

    The gates g(t) make the adjacency A(t) a function of t: which relations an utterance listens to changes as its
    state evolves. phi holds sines and cosines of the time since the dialogue began, so that time is relative to the
    dialogue and to nothing else in the batch.
    """

    angular: Tensor

    def __init__(self, dim: int, *, frequencies: int = 8) -> None:
        super().__init__()
        self.own = nn.Linear(dim, dim)
        self.message = nn.Linear(dim, dim, bias=False)
        self.time = nn.Linear(1 + 2 * frequencies, dim, bias=False)
        # One gate per relation, one for the similarity edges; open halfway at the start.
        self.gates = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, len(RELATIONS) + 1), nn.Sigmoid())
        periods = torch.logspace(math.log10(2.0), math.log10(200.0), frequencies)
        self.register_buffer("angular", 2 * math.pi / periods, persistent=False)
        self.mean, self.sum = RelationalMean(), WeightedSum()
        self.evaluations = 0
        self.graph: Graph | None = None
        self.phases: Tensor | None = None

    def start(self, graph: Graph | None, since: Tensor) -> None:
        """Fix what does not change during one integration: the graph and `since [N]`, time within the dialogue."""
        angle = wide(since).unsqueeze(-1) * self.angular
        self.phases = torch.cat([angle.sin(), angle.cos()], dim=-1)
        self.graph, self.evaluations = graph, 0

    def finish(self) -> None:
        """Let go of the graph, so that a model between two batches holds no batch."""
        self.graph = self.phases = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no batch either (the adjoint keeps one until its backward pass)."""
        return self.__dict__ | {"graph": None, "phases": None}

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        self.evaluations += 1
        assert self.phases is not None
        t = t.to(h.dtype)
        phases = self.phases.to(h.dtype)
        out = self.own(h) + self.time(torch.cat([t.expand(h.shape[0], 1), phases], dim=-1))
        message = self._message(t, h)
        return torch.tanh(out if message is None else out + self.message(message))

    def _message(self, t: Tensor, h: Tensor) -> Tensor | None:
        graph = self.graph
        if graph is None or (graph.edges.count == 0 and graph.similarity is None):
            return None
        gates = self.gates(t.reshape(1, 1)).squeeze(0)
        message = torch.zeros_like(h)
        if graph.edges.count:
            means = self.mean(h, graph.matrix)
            message = message + torch.einsum("r,rnd->nd", gates[:-1], means)
        if graph.similarity is not None:
            message = message + gates[-1] * self.sum(h, graph.similarity)
        return message


class GraphODE(nn.Module):
    """Integrates the dynamics from t = 0 to 1 over packed nodes. fp32, whatever the autocast.

    Args:
        solver: `rk4` by default: its steps are fixed, so a dialogue's result does not depend on what else is in the
            batch. `dopri5` chooses one step for all dialogues of a batch: choose it to check rk4's accuracy.
        step: the fixed solvers' step.
        adjoint: gradients by a second integration backwards in time: memory independent of the number of steps, at
            more than twice the time and approximate gradients. Choose it only where memory is short.

    Attributes:
        nfe: number of function evaluations of the last forward pass.
    """

    def __init__(
        self, dim: int, *, solver: str = "rk4", step: float = 0.25, adjoint: bool = False, tolerance: float = 1e-5
    ) -> None:
        super().__init__()
        self.dynamics = Dynamics(dim)
        self.solver, self.step, self.adjoint, self.tolerance = solver, step, adjoint, tolerance
        self.nfe = 0

    def forward(self, h: Tensor, graph: Graph | None, since: Tensor) -> Tensor:
        """`h [N, D]`, `since [N]` the time since each node's dialogue began -> `[N, D]`."""
        with torch.autocast(h.device.type, enabled=False):
            state = wide(h)
            self.dynamics.start(graph, since)
            if not self.adjoint and self.solver != "dopri5":
                final = self._in_steps(state)
                self.dynamics.finish()
            else:
                times = torch.arange(2, device=h.device, dtype=state.dtype)
                options = {} if self.solver == "dopri5" else {"options": {"step_size": self.step}}
                solve = {"rtol": self.tolerance, "atol": self.tolerance, "method": self.solver, **options}
                if self.adjoint:
                    final = self._adjoint(state, times, graph, solve)[-1]
                else:
                    final = odeint(self.dynamics, state, times, **solve)[-1]
                    self.dynamics.finish()  # (the adjoint needs the graph again in the backward pass)
            self.nfe = self.dynamics.evaluations
        return final

    def _in_steps(self, y: Tensor) -> Tensor:
        """torchdiffeq's solvers of fixed step, number for number; theirs compares times on the device, and waits."""
        f = self.dynamics
        count = int(torch.ceil(torch.ones((), dtype=y.dtype) / self.step + 1))
        grid = torch.arange(count, dtype=y.dtype) * self.step
        grid[-1] = 1.0
        times = grid.to(y.device, non_blocking=True)
        for t0, t1 in itertools.pairwise(times.unbind()):
            dt = t1 - t0
            k1 = f(t0, y)
            if self.solver == "euler":
                y = y + dt * k1
            elif self.solver == "midpoint":
                half = 0.5 * dt
                y = y + dt * f(t0 + half, y + k1 * half)
            else:  # rk4, by the 3/8 rule
                k2 = f(t0 + dt * (1 / 3), y + dt * k1 * (1 / 3))
                k3 = f(t0 + dt * (2 / 3), y + dt * (k2 - k1 * (1 / 3)))
                k4 = f(t1, y + dt * (k1 - k2 + k3))
                y = y + (k1 + 3 * (k2 + k3) + k4) * dt * 0.125
        return y

    def _adjoint(self, state: Tensor, times: Tensor, graph: Graph | None, solve: dict[str, Any]) -> Tensor:
        if graph is None or graph.similarity is None:
            out: Tensor = odeint_adjoint(self.dynamics, state, times, **solve)
            return out
        # Gradients reach the learned weights only as part of the state: one that stands still.
        states: tuple[Tensor, Tensor] = odeint_adjoint(
            _Joint(self.dynamics), (state, graph.similarity.weight), times, **solve
        )
        return states[0]


class _Joint(nn.Module):
    """The dynamics with the weights of the learned edges as a constant second state."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, t: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, weight = states
        graph = self.dynamics.graph
        assert graph is not None
        assert graph.similarity is not None
        self.dynamics.graph = replace(graph, similarity=replace(graph.similarity, weight=weight))
        return self.dynamics(t, h), torch.zeros_like(weight)
