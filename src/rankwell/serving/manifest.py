"""The first file of a bundle: what else is in it, with sizes and checksums, and which classes its tensors belong to.

``manifest.json`` lists every other file; ``manifest.sha256`` holds its own checksum, in the format of ``sha256sum -c``.
Checksums find damage, not forgery: whoever can write the directory can write its checksums. That is why a class path
resolves to a model or calibrator of ours (or of a package that is installed) and to nothing else, and why no file of a
bundle is code.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from torch import nn

from rankwell.errors import BundleError
from rankwell.serving.new_directory import NewDirectory, displaced, hash_file

__all__ = [
    "BUNDLE",
    "DEPLOYMENT",
    "FORMAT_VERSION",
    "FileRecord",
    "Manifest",
    "class_at",
    "class_path",
    "hash_of_manifest",
    "is_bundle",
    "is_deployment",
    "read_manifest",
]

FORMAT_VERSION: Final = 2
"""The format of bundles that this code writes, and the only one that it reads."""

BUNDLE: Final = "rankwell bundle"
"""What is trained, and can be trained further."""
DEPLOYMENT: Final = "rankwell deployment"
"""What is made of a bundle to serve; see `rankwell.serving.deployment`."""

_NAME: Final = "manifest.json"
_CHECKSUM_NAME: Final = "manifest.sha256"
_COPY_AGAIN: Final = "copy the bundle again from where it was written, or write it again"
_CLASS_PATH: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")

# relative, no "..", no hidden files: a manifest names nothing outside its directory
_FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*\.[a-z0-9]+$")]
_Module = TypeVar("_Module", bound=nn.Module)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@final
class FileRecord(_Record):
    """A file of the bundle: its size and its SHA-256 in hexadecimal."""

    num_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@final
class Manifest(_Record):
    """What a bundle's directory holds.

    Args:
        library_version: Of the rankwell that wrote it.
        created_us: When, by the clock of whoever wrote it.
        model: Class path of the model, ``package.module:Class``.
        calibrators: Class path of each action's calibrator.
        seed: The model was built with; rows that training has yet to see start from it.
        label_smoothing: ε of the training loss, to be inverted behind the model; see `undo_label_smoothing`.
        calibrate_by: Features that the calibrators take as segments, from coarse to fine.
        files: Every other file by its name in the directory, "/" between the parts.
        format: `BUNDLE` or `DEPLOYMENT`.
    """

    library_version: str
    created_us: int
    model: str
    calibrators: dict[str, str]
    seed: int
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    calibrate_by: list[str] = []
    files: dict[_FileName, FileRecord]
    format: str = BUNDLE

    def write(self, directory: NewDirectory) -> None:
        """Add the manifest and its checksum to a new directory."""
        head = {"format": self.format, "format_version": FORMAT_VERSION}
        text = json.dumps(head | self.model_dump(exclude={"format"}), indent=1).encode() + b"\n"
        directory.write(_NAME, text)
        directory.write(_CHECKSUM_NAME, _checksum_line(text).encode())

    def check_files(self, directory: Path) -> None:
        """Hold every listed file against its size and checksum. Files that aren't listed are not looked at.

        Raises:
            BundleError: A file is missing, cut off or damaged.
        """
        for name, record in self.files.items():
            try:
                found = hash_file(directory / name)
            except OSError as error:
                raise _unreadable(directory, name, error) from None
            if found.num_bytes != record.num_bytes:
                raise BundleError(
                    f"{name} of the bundle {directory} is cut off or damaged",
                    found=f"{found.num_bytes} bytes", allowed=f"{record.num_bytes} bytes", do=_COPY_AGAIN,
                )  # fmt: skip
            if found.sha256 != record.sha256:
                raise BundleError(
                    f"{name} of the bundle {directory} is damaged",
                    found=f"SHA-256 {found.sha256}", allowed=f"SHA-256 {record.sha256}", do=_COPY_AGAIN,
                )  # fmt: skip


def is_bundle(directory: Path) -> bool:
    """Whether a directory is a bundle, be it whole or damaged."""
    return (directory / _NAME).is_file() or (directory / _CHECKSUM_NAME).is_file()


def is_deployment(directory: Path) -> bool:
    """Whether a directory says that it is a deployment, be it whole or damaged."""
    try:
        content = json.loads((directory / _NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == DEPLOYMENT


def read_manifest(directory: Path, *, kind: str = BUNDLE) -> Manifest:
    """The manifest of a bundle, held against its own checksum; the other files are not looked at.

    Args:
        directory: Of the bundle.
        kind: What is expected to stand there, `BUNDLE` or `DEPLOYMENT`.

    Raises:
        BundleError: The directory is no bundle, its manifest is damaged, or its format is unknown.
    """
    try:
        _check_is_bundle(directory)
    except OSError as error:  # a path too long, a folder that is closed to us
        raise _unreadable(directory, _NAME, error) from None
    content = {}
    for name in (_NAME, _CHECKSUM_NAME):
        try:
            content[name] = (directory / name).read_bytes()
        except OSError as error:
            raise _unreadable(directory, name, error) from None
    expected = _checksum_line(content[_NAME])
    if content[_CHECKSUM_NAME] != expected.encode():
        raise BundleError(
            f"{_NAME} or {_CHECKSUM_NAME} of the bundle {directory} is damaged",
            found=repr(content[_CHECKSUM_NAME][:100]), allowed=f"{expected!r}, by the manifest as it stands",
            do=_COPY_AGAIN,
        )  # fmt: skip
    return _parsed(content[_NAME], directory, kind)


def hash_of_manifest(directory: Path) -> str:
    """The SHA-256 of a manifest, in hexadecimal: of all that it lists, too."""
    return hash_file(directory / _NAME).sha256


def class_path(instance: nn.Module) -> str:
    """Where `class_at` finds the class of an object.

    Raises:
        BundleError: It would not be found there: the class is not a module's own (it stands inside a function, a class,
            or the script that was started).

    >>> from rankwell.calibration.uncalibrated import Uncalibrated
    >>> class_path(Uncalibrated())
    'rankwell.calibration.uncalibrated:Uncalibrated'
    """
    cls = type(instance)
    path = f"{cls.__module__}:{cls.__qualname__}"
    # a class of __main__ is found while its script runs, and by no one after
    if cls.__module__ == "__main__" or class_at(path, nn.Module) is not cls:
        raise _no_class(path, "another program could not find it there")
    return path


def class_at(path: str, kind: type[_Module]) -> type[_Module]:
    """The class at ``package.module:Class``, which must be a concrete one of its kind.

    Raises:
        BundleError: There is no such module or class, or it is something else.

    >>> from rankwell.calibration.calibrator import Calibrator
    >>> class_at("rankwell.calibration.uncalibrated:Uncalibrated", Calibrator).__name__
    'Uncalibrated'
    """
    parts = _CLASS_PATH.fullmatch(path)
    if parts is None:
        raise _no_class(path, "it is not of the form package.module:Class")
    try:
        found: Any = getattr(importlib.import_module(parts["module"]), parts["name"], None)
    except Exception as error:
        raise _no_class(path, f"{type(error).__name__}: {error}") from error
    if found is None:
        raise _no_class(path, "the module has no such name")
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise _no_class(path, f"it is no subclass of {kind.__module__}:{kind.__qualname__}")
    if inspect.isabstract(found):
        raise _no_class(path, "it is abstract")
    return found


def _no_class(path: str, why: str) -> BundleError:
    return BundleError(
        f"the class path {path!r} cannot be used: {why}",
        allowed="a model or calibrator at the top of a module that can be imported",
        do="install the package that the class is in, or move the class to the top of a module",
    )


def _checksum_line(manifest: bytes) -> str:
    return f"{hashlib.sha256(manifest).hexdigest()}  {_NAME}\n"


def _check_is_bundle(directory: Path) -> None:
    if is_bundle(directory):
        return
    if directory.exists():
        found = sorted(path.name for path in directory.iterdir())[:10] if directory.is_dir() else "a file"
        raise BundleError(
            f"{directory} is no bundle", found=found, allowed=f"a directory with {_NAME}",
            do="give the directory that the bundle was written to",
        )  # fmt: skip
    old = [path for path in displaced(directory) if is_bundle(path)]
    if old:
        raise BundleError(
            f"there is no bundle at {directory}: writing a new one was cut off, and the old one stands beside it",
            found=[path.name for path in old],
            do=f"put the old bundle back (mv {old[-1]} {directory}), or write the new one again",
        )
    raise BundleError(
        f"there is no bundle at {directory}", found="nothing", allowed=f"a directory with {_NAME}",
        do="give the directory that the bundle was written to",
    )  # fmt: skip


def _unreadable(directory: Path, name: str, error: OSError) -> BundleError:
    missing = isinstance(error, FileNotFoundError)
    return BundleError(
        f"{name} of the bundle {directory} {'is missing' if missing else 'cannot be read'}",
        found="no such file" if missing else error.strerror,
        do=_COPY_AGAIN if missing else "see to the file's permissions and to the disk",
    )


def _parsed(text: bytes, directory: Path, kind: str) -> Manifest:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, Mapping) or fields.get("format") != kind:
        exports = kind == DEPLOYMENT and isinstance(fields, Mapping) and fields.get("format") == BUNDLE
        raise BundleError(
            f"{_NAME} in {directory} is not that of a {kind.removeprefix('rankwell ')}", found=repr(text[:60]),
            allowed=f"format: {kind!r}",
            do="export the bundle first (rankwell export)" if exports else
            f"give the directory that the {kind.removeprefix('rankwell ')} was written to",
        )  # fmt: skip
    if fields.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"the bundle {directory} has a format that this version of rankwell does not know",
            found=f"format_version {fields.get('format_version')!r}, by rankwell {fields.get('library_version')!r}",
            allowed=f"format_version {FORMAT_VERSION}",
            do="read it with the rankwell that wrote it, or train and write the bundle again",
        )
    try:
        known = {name: value for name, value in fields.items() if name != "format_version"}
        return Manifest.model_validate(known)
    except ValidationError as error:
        detail = error.errors()[0]
        raise BundleError(
            f"{_NAME} in {directory} does not hold: {'.'.join(map(str, detail['loc']))}: {detail['msg']}",
            found=detail["input"], do=_COPY_AGAIN,
        ) from None  # fmt: skip
