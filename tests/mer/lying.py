"""An object store that breaks every promise which this project does not ask for, in a time of its own.

It drops requests, and the answers of requests that it has carried out; it carries out writes and removals twice, the
second time late, so that what was removed comes back; its listings are some seconds old; and it knows no conditions.
What it keeps: an object that was written can be read at once, and is listed within `lag` seconds.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pyarrow.fs import FileType

AWAY = "AWS Error REQUEST_TIMEOUT during a request"


class LyingBucket:
    """As pyarrow's file systems, for `ObjectStore`.

    lies  share of requests about which it lies
    lag   age in seconds of the oldest listing that it shows
    """

    def __init__(self, seed: int, lies: float = 0.2, lag: float = 8.0) -> None:
        self.draw, self.lies, self.lag = random.Random(seed), lies, lag
        self.now = 0.0
        self.objects: dict[str, bytes] = {}
        self.history: list[tuple[float, dict[str, bytes]]] = [(0.0, {})]
        self.late: list[tuple[float, Callable[[], None]]] = []
        self.told = 0

    # ---- time ------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [act for when, act in self.late if when <= self.now]
        self.late = [(when, act) for when, act in self.late if when > self.now]
        for act in due:
            act()

    def monotonic(self) -> float:
        return self.now

    # ---- lies ------------------------------------------------------------------------------------------------

    def _request(self, act: Callable[[], Any], again: Callable[[], Any] | None = None) -> Any:
        """Carry out a request, or not, or twice; and answer, or not. `again`: what comes late the second time."""
        self.sleep(0.01)
        fate = self.draw.random() / self.lies if self.lies else 1.0
        if fate < 0.25:
            raise OSError(AWAY)
        answer = act()
        if again is not None and 0.25 <= fate < 0.5:
            self.late.append((self.now + self.draw.uniform(0, 2 * self.lag), again))
        if 0.5 <= fate < 1.0:
            raise OSError(AWAY)
        return answer

    def _change(self, name: str, data: bytes | None) -> None:
        if data is None:
            self.objects.pop(name, None)
        else:
            self.objects[name] = data
        self.history = [*self.history[-200:], (self.now, dict(self.objects))]

    def _listed(self) -> dict[str, bytes]:
        """All that there is, or was not long ago."""
        if self.draw.random() > 3 * self.lies:
            return self.objects
        then = self.now - self.draw.uniform(0, self.lag)
        return next((found for when, found in reversed(self.history) if when <= then), {})

    # ---- pyarrow's file system -------------------------------------------------------------------------------

    def create_dir(self, path: str, recursive: bool = True) -> None:
        pass

    def open_output_stream(self, path: str, compression: None = None) -> Any:
        bucket, new = self, path not in self.objects

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    data = self.getvalue()
                    super().close()
                    # names that are written again and again come in the order in which they were written
                    late = (lambda: bucket._change(path, data)) if new else None
                    bucket._request(lambda: bucket._change(path, data), late if _is_unique(path) else None)

        return Upload()

    def open_input_stream(self, path: str, compression: None = None) -> Any:
        return io.BytesIO(self._request(lambda: self._read(path)))

    def open_input_file(self, path: str) -> Any:
        data = self._request(lambda: self._read(path))
        return SimpleNamespace(
            size=lambda: len(data), read_at=lambda size, at: data[at : at + size], close=lambda: None
        )

    def _read(self, path: str) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def get_file_info(self, selector: Any) -> list[Any]:
        found = self._request(self._listed)
        start = f"{selector.base_dir}/"
        infos: dict[str, Any] = {}
        for name, data in found.items():
            rest = name.removeprefix(start)
            if name.startswith(start):
                head, more, _ = rest.partition("/")
                file = selector.recursive or not more
                path = name if file else start + head
                kind = FileType.File if file else FileType.Directory
                infos[path] = SimpleNamespace(
                    path=path,
                    base_name=path.rpartition("/")[2],
                    type=kind,
                    size=len(data),
                    mtime_ns=int(self.now * 1e9),
                )
        return list(infos.values())

    def delete_file(self, path: str) -> None:
        def delete() -> None:
            self._read(path)
            self._change(path, None)

        self._request(delete, (lambda: self._change(path, None)) if _is_unique(path) else None)

    def delete_dir(self, path: str) -> None:
        for name in [name for name in self.objects if name.startswith(f"{path}/")]:
            self._change(name, None)


def _is_unique(path: str) -> bool:
    """Objects whose names are never used again: late repetitions of requests about others no order can mend."""
    return "/ledger/" in path
