"""A folder that says which bundle a server answers with, which one before, and which ones are on trial.

::

    root/rollout.json          the pointer: replaced atomically, so that all of it changes at once
    root/bundles/<id>/         what it points to; a bundle is copied here and never changed
    root/corrections.json      see `rankwell.serving.correction`

Servers look at the pointer each second. Whatever is deployed is checked twice: before the pointer moves, and by each
server before it takes traffic.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal, final

from pydantic import Field, StringConstraints, ValidationError

from rankwell.data.atomic_file import AtomicFile
from rankwell.errors import BundleError, SchemaError
from rankwell.schema.transforms import Declaration, as_schema_error
from rankwell.serving.loaded_bundle import LoadedBundle, load_bundle

__all__ = ["Rollout", "RolloutFolder", "Trial"]

_POINTER: Final = "rollout.json"
_BUNDLES: Final = "bundles"
_LOCK: Final = "rollout.lock"
_Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


@final
class Trial(Declaration):
    """A bundle on trial.

    Args:
        bundle_id: Of a bundle in the folder.
        share: In [0, 1]: of the members (a canary), or of the requests (a shadow).
    """

    bundle_id: _Id
    share: Annotated[float, Field(ge=0, le=1)]


@final
class Rollout(Declaration):
    """Which bundles answer.

    Args:
        format_version: 1.
        current: The bundle that answers.
        previous: What it takes the place of, and `rollback` goes back to.
        canary: Answers a share of the members, always the same ones, in its place.
        shadow: Scores a share of the requests after they were answered; nobody sees it but the metrics.
    """

    format_version: Literal[1] = 1
    current: _Id
    previous: _Id | None = None
    canary: Trial | None = None
    shadow: Trial | None = None


@final
class RolloutFolder:
    """Reads and moves the pointer of a folder.

    Args:
        root: The folder; the first `deploy` makes it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def pointer(self) -> Path:
        """The file that is replaced."""
        return self.root / _POINTER

    @property
    def is_there(self) -> bool:
        """Whether something was ever deployed here."""
        return self.pointer.is_file()

    def path_of(self, bundle_id: str) -> Path:
        """Where a bundle of the folder stands."""
        return self.root / _BUNDLES / bundle_id

    def bundle_ids(self) -> frozenset[str]:
        """Of all bundles that were copied here."""
        bundles = self.root / _BUNDLES
        return frozenset(path.name for path in bundles.glob("[0-9a-f]*")) if bundles.is_dir() else frozenset()

    def read(self) -> Rollout:
        """What stands in the pointer.

        Raises:
            BundleError: Nothing was deployed here, or the pointer is damaged.
        """
        try:
            return Rollout.model_validate_json(self.pointer.read_bytes())
        except OSError as error:
            raise BundleError(
                f"nothing is deployed in {self.root}", found=error.strerror, do="rankwell deploy ROOT BUNDLE"
            ) from None
        except (ValidationError, SchemaError) as error:
            found = as_schema_error(error) if isinstance(error, ValidationError) else error
            raise BundleError(
                f"the pointer {self.pointer} is damaged, or of a newer format", found=str(found),
                do="deploy a bundle again, with the rankwell that wrote it",
            ) from None  # fmt: skip

    def deploy(self, path: str | Path) -> Rollout:
        """Let a bundle answer, once it has passed its checks and keeps the schema of the one that does.

        Args:
            path: Of a bundle or a deployment; it is copied (linked, where the file system can).

        Raises:
            BundleError: It is refused. Nothing has changed.
        """
        with self._only_writer():
            before = self.read() if self.is_there else None
            bundle_id = self._add(path, before)
            if before is None:
                return self._point(Rollout(current=bundle_id))
            if bundle_id == before.current:
                return self._point(before.model_copy(update={"canary": None}))
            return self._point(Rollout(current=bundle_id, previous=before.current, shadow=before.shadow))

    def rollback(self) -> Rollout:
        """Let the bundle before this one answer again, and nothing be on trial.

        Raises:
            BundleError: There is none, or it no longer passes its checks.
        """
        with self._only_writer():
            before = self.read()
            if before.previous is None:
                raise BundleError(
                    f"there is nothing to go back to in {self.root}", found=f"only bundle {before.current}",
                    do="deploy another bundle",
                )  # fmt: skip
            load_bundle(self.path_of(before.previous))
            return self._point(Rollout(current=before.previous, previous=before.current))

    def try_on(self, role: Literal["canary", "shadow"], path: str | Path | None, share: float = 0.0) -> Rollout:
        """Put a bundle on trial beside the one that answers, or end the trial.

        Args:
            role: See `Rollout`.
            path: Of a bundle or a deployment; None ends it.
            share: In [0, 1].

        Raises:
            BundleError: It is refused, or nothing is deployed.
            SchemaError: The share is none.
        """
        with self._only_writer():
            before = self.read()
            trial = None if path is None else Trial(bundle_id=self._add(path, before), share=share)
            return self._point(before.model_copy(update={role: trial}))

    def _add(self, path: str | Path, before: Rollout | None) -> str:
        bundle = load_bundle(path)
        if before is not None:
            self._check_schema(bundle, before)
        target = self.path_of(bundle.id)
        if not target.exists():
            partial = target.with_name(f".{bundle.id}.{os.getpid()}.partial")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copytree(path, partial, copy_function=_link_or_copy)
                load_bundle(partial)
                partial.replace(target)
            except OSError as error:
                raise BundleError(
                    f"the bundle {path} can't be copied to {target}", found=str(error),
                    do="make room on the disk, and deploy it again",
                ) from error  # fmt: skip
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return bundle.id

    def _check_schema(self, bundle: LoadedBundle, before: Rollout) -> None:
        for known in (before.current, before.previous):
            if known is None:
                continue
            try:
                schema = load_bundle(self.path_of(known)).schema
            except BundleError:
                continue  # a bundle that broke since must not keep a whole one out
            bundle.check_schema(schema)
            return

    def _point(self, rollout: Rollout) -> Rollout:
        try:
            with AtomicFile(self.pointer) as file:
                file.write(rollout.model_dump_json(indent=1).encode() + b"\n")
        except OSError as error:
            raise BundleError(
                f"the pointer {self.pointer} can't be written", found=error.strerror, do="make room on the disk"
            ) from error
        return rollout

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        import fcntl  # not everywhere, and only who deploys needs it

        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / _LOCK).open("ab")
        except OSError as error:
            raise BundleError(
                f"the folder {self.root} can't be written to", found=error.strerror, do="choose another one"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _link_or_copy(source: str, target: str) -> str:
    with suppress(OSError):  # bundles are replaced, never written in place, so that a link stays what it was
        os.link(source, target)
        return target
    return shutil.copy2(source, target)
