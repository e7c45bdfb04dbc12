"""What a contract found: one line per check."""

from __future__ import annotations

from dataclasses import dataclass


class Violation(Exception):
    """A check that does not hold; the text says what was seen."""


@dataclass(frozen=True)
class Result:
    """One check: its name, what it promises, and, where it fails, what was seen and under which modalities."""

    name: str
    meaning: str
    seen: str | None = None

    @property
    def passed(self) -> bool:
        return self.seen is None

    def __str__(self) -> str:
        """
        >>> print(Result("padding", "what stands in the padding cannot matter", "row 0 differs by 0.3"))
        FAIL  padding         what stands in the padding cannot matter
                              row 0 differs by 0.3
        """
        line = f"{'pass' if self.passed else 'FAIL'}  {self.name:<15} {self.meaning}"
        return line if self.seen is None else "\n".join([line, *(" " * 22 + part for part in self.seen.splitlines())])


@dataclass(frozen=True)
class Report:
    """All checks of one level."""

    target: str
    kind: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that do not hold."""
        return tuple(result.name for result in self.results if not result.passed)

    def __str__(self) -> str:
        good = sum(result.passed for result in self.results)
        lines = [str(result) for result in self.results]
        return "\n".join([*lines, f"{self.kind} {self.target}: {good} of {len(self.results)} checks hold"])
