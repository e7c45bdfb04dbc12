"""The inline executor: the same protocol, session and workers in this process, one order at a time, without Ray.

For debuggers, tests and machines where Ray cannot run. Several workers are several hands of one process, so that every
interleaving can be tried: `pick` chooses which of the busy ones goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.schedule.session import Session
from experiments.schedule.work import MakeWork, Order, Spec
from experiments.schedule.worker import Worker

Tick = Callable[[], None]


def run_inline(
    session: Session,
    make_work: MakeWork,
    root: str,
    *,
    workers: int = 1,
    pick: Callable[[Sequence[str]], str] | None = None,
    tick: Tick | None = None,
    boards: str | None = None,
    watch: Callable[[str, Spec, int, float], None] | None = None,
) -> None:
    """Run a session to its end.

    pick  which busy worker carries out its orders next; the first by default
    tick  called between orders: progress, tables
    watch called after every epoch with worker, trial, epochs so far and value
    """

    def beat_of(name: str) -> Callable[[Spec, int, float], bool]:
        def beat(spec: Spec, epochs: int, value: float) -> bool:
            if watch is not None:
                watch(name, spec, epochs, value)
            if tick is not None:
                tick()
            return session.overtime

        return beat

    names = [f"worker-{number}" for number in range(workers)]
    hands = {name: Worker(root, make_work, beat=beat_of(name), boards=boards) for name in names}
    todo: dict[str, list[Order]] = {}
    while True:
        for name in names:
            if name not in todo:
                # In one process every worker has the whole device: a second try has as large a share as there is.
                orders = session.orders(name) or session.orders(name, large=True)
                if orders:
                    todo[name] = orders
        if not todo:
            return
        busy = [name for name in names if name in todo]
        chosen = pick(busy) if pick is not None else busy[0]
        more = session.report(chosen, hands[chosen].run(todo.pop(chosen)))
        if more:
            todo[chosen] = more
        if tick is not None:
            tick()
