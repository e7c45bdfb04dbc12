"""Errors that a person reads: what was found, where, what was expected, and the nearest valid name."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

_ADDRESS = re.compile(r"((?<![a-z0-9+.-])(?!file:)[a-z][a-z0-9+.-]+:/{1,2})(\S+)", re.IGNORECASE)
_USER = re.compile(r"\A(?:[^/@?&:]+@|[^/@?&]*:(?!\d+(?:[/?]|$)).*@)")
"""What stands for whoever asks; a key may hold slashes, and a number after a host's name is a port. A public bucket is
read as `gs://anonymous@bucket`."""

_COPIED = re.compile(r"""(?<![^\s'"`=,(\[{])[^\s/@:?&'"`=]{1,200}:[^\s/]\S{0,999}@(?=[\w.-]+[:/])""")
"""`user:secret@` before a host or bucket without a scheme: as `scp` takes it, or with its `s3://` forgotten."""

_OPTION = re.compile(r"([^&;=]*)=([^&;]*?)([:,'\")\]]*)(?=[&;]|\Z)")
_OPTIONS = {
    "region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open",
    "background_writes", "force_virtual_addressing", "check_directory_existence_before_creation", "tls_ca_file_path",
    "tls_ca_dir_path", "tls_verify_certificates", "retry_limit_seconds", "project_id", "enable_tls",
}  # fmt: skip
"""Options of an address that hold no secret; the value of any other is not shown."""


def without_secrets(text: str) -> str:
    """A text with the secrets of the addresses in it left out.

    >>> without_secrets("cannot open s3://bucket/r?secret_key=abc&region=eu")
    'cannot open s3://bucket/r?secret_key=***&region=eu'
    >>> without_secrets("s3://AKIA:a/b@bucket/r"), without_secrets("gs://anonymous@bucket/run@2")
    ('s3://***@bucket/r', 'gs://anonymous@bucket/run@2')
    >>> without_secrets("anna:secret@host:/data"), without_secrets("anna@host:/data")
    ('***@host:/data', 'anna@host:/data')
    """
    shown = _ADDRESS.sub(_shown, text) if ":/" in text else text
    return _COPIED.sub("***@", shown) if "@" in shown else shown


def _shown(address: re.Match[str]) -> str:
    public = address[0].lower().startswith(("gs://anonymous@", "gcs://anonymous@"))
    place, mark, options = (address[2] if public else _USER.sub("***@", address[2])).partition("?")
    return address[1] + place + mark + _OPTION.sub(_shown_option, options)


def _shown_option(option: re.Match[str]) -> str:
    value = unquote(option[2])
    return f"{option[1]}={option[2] if option[1] in _OPTIONS and without_secrets(value) == value else '***'}{option[3]}"


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
        problem = without_secrets(problem)
        where, expected, nearest, hint = (part and without_secrets(part) for part in (where, expected, nearest, hint))
        self.problem, self.where, self.expected, self.nearest, self.hint = problem, where, expected, nearest, hint
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


def refuse_secrets(text: str, where: str | None = None) -> None:
    """Refuse an address that holds credentials: from a command line, a space or a variable they get into results, logs
    and lists of processes, and nobody can take them back."""
    shown = without_secrets(text)
    if shown != text:
        raise UserError(
            f"credentials in an address, or an option that none has: {shown}",
            where=where,
            hint="They would be written into results and logs. Take them out, and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (for gs:// GOOGLE_APPLICATION_CREDENTIALS), or a profile or role.",
        )


class UnfitMachine(UserError):
    """This machine cannot train now, whatever the trial: its disk is full, its corpus is another one or damaged."""


@contextlib.contextmanager
def reading_corpus() -> Iterator[None]:
    """Around what reads a corpus's files: what is wrong with them is no verdict on whoever reads them."""
    try:
        yield
    except UnfitMachine:
        raise
    except PermissionError as error:
        raise UnfitMachine("may not be read", where=str(error.filename), expected="a file to read") from error
    except UserError as error:
        more = {"expected": error.expected, "nearest": error.nearest, "hint": error.hint}
        raise UnfitMachine(error.problem, where=error.where, **more) from error


class UserErrors(UserError):
    """Several mistakes found in one pass, shown one a line."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def __reduce__(self) -> tuple[object, ...]:
        return UserErrors, (self.errors,)


@contextlib.contextmanager
def inside(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Mistakes in files of a folder name them by their place in it; said elsewhere, they name the folder too."""
    try:
        yield
    except UserError as error:
        found = error.errors if isinstance(error, UserErrors) else [error]
        if any(type(one) is not UserError for one in found):
            raise
        root, named = os.fspath(folder), []
        for one in found:
            where = one.where if (one.where or root).startswith(root) else os.path.join(root, one.where or "")
            named.append(_rebuild(UserError, one.problem, where, one.expected, one.nearest, one.hint))
        raise UserErrors(named) if len(named) > 1 else named[0] from None


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
