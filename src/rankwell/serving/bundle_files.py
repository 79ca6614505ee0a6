"""The files of a bundle, by the kinds of what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from rankwell.data.statistics import NumericStatistics
from rankwell.errors import BundleError, RankwellError
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.serving.manifest import Manifest, class_at
from rankwell.serving.new_directory import NewDirectory

__all__ = ["BundleFiles", "write_declaration"]

SCHEMA: Final = "schema.json"
STATISTICS: Final = "statistics.json"
SETTINGS: Final = "settings.json"

_ANOTHER_VERSION: Final = "read it with the rankwell that wrote it (see library_version in its manifest), or train anew"


def write_declaration(model: Model, directory: NewDirectory) -> None:
    """Write what a model is built from."""
    for name, text in (
        (SCHEMA, model.schema.to_json()), (STATISTICS, model.statistics.to_json()),
        (SETTINGS, model.settings.model_dump_json(indent=1)),
    ):  # fmt: skip
        directory.write(name, text.encode() + b"\n")


@final
class BundleFiles:
    """The files of a bundle or deployment that its manifest lists.

    Args:
        directory: Where they stand.
        manifest: Lists them; that they are whole is for `Manifest.check_files` to say.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest

    def path(self, name: str) -> Path:
        """Where a file stands.

        Raises:
            BundleError: The manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle {self.directory} has no {name}", found=list(self.manifest.files), do=_ANOTHER_VERSION
            )
        return self.directory / name

    def text(self, name: str) -> str:
        """What a file holds, as text."""
        return self.path(name).read_text(encoding="utf-8")

    def json(self, name: str) -> dict[str, Any]:
        """What a file holds, as JSON.

        Raises:
            BundleError: It holds none.
        """
        try:
            content: dict[str, Any] = json.loads(self.text(name))
        except ValueError as error:
            raise BundleError(f"{self.path(name)} is no JSON", found=str(error), do=_ANOTHER_VERSION) from None
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a file holds, as tensors by name.

        Raises:
            BundleError: It is no safetensors file.
        """
        try:
            tensors: dict[str, Tensor] = safetensors.torch.load_file(self.path(name))
        except safetensors.SafetensorError as error:
            raise BundleError(
                f"{self.path(name)} is no safetensors file", found=str(error), do=_ANOTHER_VERSION
            ) from None
        return tensors

    def empty_model(self) -> Model:
        """The model as it was built, before anything was learned.

        Raises:
            BundleError: Its class is not there, or has changed.
        """
        path = self.manifest.model
        cls = class_at(path, Model)  # type: ignore[type-abstract]
        try:
            schema = Schema.from_json(self.text(SCHEMA))
            statistics = NumericStatistics.from_json(self.text(STATISTICS))
            settings = cls.settings_class.model_validate_json(self.text(SETTINGS))
            build: Callable[..., Model] = cls  # every concrete model is built so
            # of what the seed draws, reading overwrites all but the start of rows yet unseen
            return build(schema, statistics, settings, seed=self.manifest.seed)
        except BundleError:
            raise
        except (RankwellError, ValidationError, TypeError) as error:
            raise self.misfit(SETTINGS, path, error) from error

    def misfit(self, name: str, owner: str, why: object) -> BundleError:
        """The error that a file does not fit what is to be made of it."""
        return BundleError(
            f"{name} of the bundle {self.directory} does not fit {owner}, which has changed since it was written",
            found=str(why), do=_ANOTHER_VERSION,
        )  # fmt: skip
