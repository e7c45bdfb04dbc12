"""Errors that a person reads: what was found, where, what was expected, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in something the user wrote or named. Shown without a traceback; exit code 2.

    >>> str(UserError("unknown fusion 'tacfm'", where="space.yaml:12", expected="tacfn, xattn", nearest="tacfn"))
    "space.yaml:12: unknown fusion 'tacfm'; expected tacfn, xattn; did you mean 'tacfn'?"
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        nearest: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.where, self.expected, self.nearest, self.hint = (
            problem,
            where,
            expected,
            nearest,
            hint,
        )
        text = f"{where}: {problem}" if where else problem
        if expected:
            text += f"; expected {expected}"
        if nearest:
            text += f"; did you mean '{nearest}'?"
        if hint:
            text += f"\n  {hint}"
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (Ray workers); keyword-only arguments need help to survive it.
        return _rebuild, (type(self), self.problem, self.where, self.expected, self.nearest, self.hint)


def _rebuild(
    kind: type[UserError],
    problem: str,
    where: str | None,
    expected: str | None,
    nearest: str | None,
    hint: str | None,
) -> UserError:
    return kind(problem, where=where, expected=expected, nearest=nearest, hint=hint)


class UnfitMachine(UserError):
    """This machine cannot train now, whatever the trial: its disk is full, its corpus is another one."""


class UserErrors(UserError):
    """Several mistakes found in one pass, shown one a line."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def __reduce__(self) -> tuple[object, ...]:
        return UserErrors, (self.errors,)


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to a mistyped one, or None where nothing is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown(kind: str, name: object, valid: Iterable[str], where: str | None = None) -> UserError:
    """The error for a name that is not in a closed set."""
    names = sorted(valid)
    return UserError(
        f"unknown {kind} {name!r}", where=where, expected=", ".join(names), nearest=nearest(str(name), names)
    )
