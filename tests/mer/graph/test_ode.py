"""The graph ODE: exact solutions, finite differences, solvers against each other."""

from __future__ import annotations

import pytest
import torch

from mer.batch import Dialogues
from mer.graph.edges import layout, window_edges
from mer.graph.messages import Graph, adjacency
from mer.graph.ode import GraphODE
from mer.graph.similarity import SimilarityEdges


def graph(lengths: tuple[int, ...] = (4, 1, 3), dtype: torch.dtype = torch.float32, learned: bool = False) -> Graph:
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    packed = layout(Dialogues(index, torch.arange(len(index)) % 2, torch.arange(float(len(index)))))
    edges = window_edges(packed, 2, 2)
    heard = torch.ones(packed.size, dtype=torch.bool)
    similarity = None
    if learned:
        torch.manual_seed(5)
        similarity = SimilarityEdges(3, neighbours=2)(torch.randn(packed.size, 3), packed, heard)
    return Graph(packed, heard, edges, adjacency(edges, packed.size, dtype), similarity)


def test_constant_dynamics_have_the_exact_solution() -> None:
    ode = GraphODE(3)
    for parameter in ode.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(ode.dynamics.own.bias, 0.5)
    h = torch.randn(8, 3)
    torch.testing.assert_close(ode(h, graph(), torch.arange(8.0)), h + torch.tensor(0.5).tanh())


@pytest.mark.parametrize(("solver", "step", "evaluations"), [("rk4", 0.25, 16), ("rk4", 1.0, 4), ("euler", 0.25, 4)])
def test_evaluations_are_counted(solver: str, step: float, evaluations: int) -> None:
    ode = GraphODE(3, solver=solver, step=step)
    ode(torch.randn(8, 3), graph(), torch.arange(8.0))
    assert ode.nfe == evaluations


def test_rk4_agrees_with_dopri5() -> None:
    torch.manual_seed(0)
    exact = GraphODE(3, solver="dopri5", tolerance=1e-8)
    fixed = GraphODE(3)
    fixed.load_state_dict(exact.state_dict())
    h, since = torch.randn(8, 3, dtype=torch.float64), torch.arange(8.0)
    exact, fixed, g = exact.double(), fixed.double(), graph(dtype=torch.float64)
    torch.testing.assert_close(fixed(h, g, since), exact(h, g, since), atol=2e-5, rtol=0)
    assert exact.nfe > 0


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    ode, g = GraphODE(3).double(), graph(dtype=torch.float64)
    since = torch.arange(8.0)
    h = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: ode(value, g, since), (h,))
    for parameter in (ode.dynamics.message.weight, ode.dynamics.gates[2].weight, ode.dynamics.time.weight):
        (analytic,) = torch.autograd.grad(ode(h, g, since).pow(2).sum(), parameter)
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                values.append(ode(h, g, since).pow(2).sum())
                parameter -= sign * 1e-6 * direction
        numeric = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((analytic * direction).sum(), numeric, rtol=1e-6, atol=1e-8)


def test_adjoint_gradients_agree_with_backpropagation() -> None:
    torch.manual_seed(0)
    direct = GraphODE(3, step=0.05)
    adjoint = GraphODE(3, step=0.05, adjoint=True)
    adjoint.load_state_dict(direct.state_dict())
    h, since = torch.randn(8, 3), torch.arange(8.0)
    found = {}
    for name, ode in (("direct", direct), ("adjoint", adjoint)):
        g = graph(learned=True)
        assert g.similarity is not None
        g.similarity.weight.retain_grad()
        ode(h, g, since).pow(2).sum().backward()
        found[name] = [*(p.grad for p in ode.parameters()), g.similarity.weight.grad]
    for expected, gradient in zip(found["direct"], found["adjoint"], strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)


def test_state_stays_in_single_precision_under_autocast() -> None:
    ode, h, since = GraphODE(3), torch.randn(8, 3), torch.arange(8.0)
    plain = ode(h, graph(), since)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ode(h, graph(), since)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_time_of_the_dialogue_matters() -> None:
    ode, h = GraphODE(3), torch.randn(8, 3)
    assert not torch.equal(ode(h, graph(), torch.arange(8.0)), ode(h, graph(), torch.arange(8.0) * 10))
