"""All that serving needs of a trained ranker, as a directory that is whole or refused.

::

    manifest.json            format version, class paths, and every file below with its size and SHA-256
    manifest.sha256          the manifest's own, for `sha256sum -c`
    schema.json              what each column means
    statistics.json          what was measured on `train` for the transforms of numerics
    settings.json            what the model was built from, besides
    dense.safetensors        the model's parameters and buffers
    rows/<part>/<table>.*    the rows of each of its tables that serving can read; see `rankwell.serving.row_file`
    calibrators.safetensors  what each action's calibrator was fitted to: <action>/<buffer>
    metrics.json             flat names to numbers
    provenance.json          where it all came from

Files that the manifest doesn't list are not looked at. Nothing is pickled.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import safetensors
import safetensors.torch
from torch import Tensor

import rankwell
from rankwell.calibration.calibrator import Calibrator
from rankwell.calibration.segment_columns import known_segments
from rankwell.errors import BundleError, RankwellError
from rankwell.losses.label_smoothing import check_epsilon
from rankwell.models.model import Model
from rankwell.schema import Schema
from rankwell.serving.bundle_files import BundleFiles, write_declaration
from rankwell.serving.manifest import FileRecord, Manifest, class_at, class_path, is_bundle, read_manifest
from rankwell.serving.new_directory import NewDirectory
from rankwell.serving.row_file import ROWS, STATES, ZEROS, file_stem, read_rows, write_rows

__all__ = ["Bundle", "check_place", "read_bundle", "write_bundle"]

_DENSE: Final = "dense.safetensors"
_CALIBRATORS: Final = "calibrators.safetensors"
_METRICS: Final = "metrics.json"
_PROVENANCE: Final = "provenance.json"


@final
@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A trained model, a calibrator for each action, and what is known of them.

    Args:
        model: Gives the logits.
        calibrators: By action, one for every action of the model's schema (`Uncalibrated` where nothing was fitted).
        created_us: When it was made, UTC microseconds, by the caller's clock.
        metrics: Flat names to numbers; NaN where undefined.
        provenance: Anything JSON can say of where it came from: recipe, seed, fingerprint of the log, splits, … What
            is written also has "versions", of Python and of the libraries, unless the caller gives them.
        label_smoothing: ε of the loss that the model was trained with. Its inverse stands between model and calibrator,
            so calibrators are to be fitted behind `undo_label_smoothing` with the same ε.
        calibrate_by: Features that the calibrators take as segments, from coarse to fine.

    Raises:
        BundleError: An action has no calibrator, there is one for no action, or a segment is no categorical feature.
        RecipeError: ε is outside [0, 1).

    >>> from rankwell.calibration.uncalibrated import Uncalibrated
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    >>> model = Logistic(schema, NumericStatistics(), seed=0)
    >>> Bundle(model=model, calibrators={"click": Uncalibrated()}, created_us=0).schema.item
    'job'
    """

    model: Model
    calibrators: Mapping[str, Calibrator]
    created_us: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    calibrate_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_epsilon(self.label_smoothing)
        actions = [action.name for action in self.schema.actions]
        if set(self.calibrators) != set(actions):
            raise BundleError(
                "a bundle has one calibrator for each action of its schema", found=sorted(self.calibrators),
                allowed=actions, do="fit one on `calibrate`, or give Uncalibrated() to take logits at their word",
            )  # fmt: skip
        unknown = sorted(set(self.calibrate_by) - set(known_segments(self.schema)))
        if unknown:
            raise BundleError(
                "a bundle calibrates by categorical features of its schema", found=unknown,
                allowed=known_segments(self.schema), do="name the segments that its calibrators were fitted by",
            )  # fmt: skip

    @property
    def schema(self) -> Schema:
        """The model's schema."""
        return self.model.schema


def write_bundle(bundle: Bundle, path: str | Path) -> None:
    """Write a bundle as a directory, in the place of an older one if there is one.

    The files are written beside it, forced to disk and read back before they are swapped in by rename: whatever goes
    wrong before, the old bundle stays whole and nothing new stays.

    Args:
        bundle: To be written; nothing of it is moved or changed.
        path: Where the directory is to stand. Missing parents are made.

    Raises:
        BundleError: The disk is full or refuses; the path is taken by something that is no bundle; a class of the
            bundle could not be found again; a metric or the provenance is nothing that JSON can say.

    >>> import tempfile
    >>> from rankwell.calibration.platt import Platt
    >>> from rankwell.data.statistics import NumericStatistics
    >>> from rankwell.models.wide_deep import Logistic
    >>> from rankwell.schema import Action, Categorical
    >>> schema = Schema(features=(Categorical(name="job"),), actions=(Action(name="click"),), item="job")
    >>> bundle = Bundle(model=Logistic(schema, NumericStatistics(), seed=0), calibrators={"click": Platt(1.0, -1.0)},
    ...                 metrics={"test.click.log_loss": 0.25}, created_us=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(bundle, f"{folder}/bundle")
    ...     read_bundle(f"{folder}/bundle").metrics
    {'test.click.log_loss': 0.25}
    """
    target = Path(path).resolve()
    check_place(target)
    classes = class_path(bundle.model), {action: class_path(c) for action, c in sorted(bundle.calibrators.items())}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with NewDirectory.beside(target) as directory:
            _write_files(bundle, directory)
            manifest = Manifest(
                library_version=rankwell.__version__,
                created_us=int(bundle.created_us),
                model=classes[0],
                calibrators=classes[1],
                seed=next((table.seed for table in bundle.model.tables.values()), 0),
                label_smoothing=bundle.label_smoothing,
                calibrate_by=list(bundle.calibrate_by),
                files={
                    name: FileRecord(num_bytes=file.num_bytes, sha256=file.sha256)
                    for name, file in sorted(directory.written.items())
                },
            )
            manifest.write(directory)
            read_manifest(directory.path).check_files(directory.path)
            directory.put_in_place()
    except OSError as error:
        raise BundleError(
            f"the bundle could not be written to {target}", found=str(error),
            do="free space or mend the permissions, and write it again; what stood there before still does",
        ) from error  # fmt: skip


def read_bundle(path: str | Path) -> Bundle:
    """Read a bundle that `write_bundle` wrote, after holding every file against its checksum.

    Returns:
        Its model is in eval mode and its tables have no rule to move their rows by: they only read. To train it
        further, see `rankwell.serving.online_learning.read_states`; the state is not in it, and written again it is
        a bundle without.

    Raises:
        BundleError: It is no bundle, a file is missing or damaged, its format is unknown, or its classes are not there
            or have changed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_bundle(folder)
    Traceback (most recent call last):
    rankwell.errors.BundleError: ...
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    manifest.check_files(directory)
    files = BundleFiles(directory, manifest)
    model = _read_model(files)
    provenance = files.json(_PROVENANCE)
    metrics = {name: float(number) for name, number in files.json(_METRICS).items()}
    calibrators = _read_calibrators(files)
    return Bundle(
        model=model,
        calibrators=calibrators,
        created_us=manifest.created_us,
        metrics=metrics,
        provenance=provenance,
        label_smoothing=manifest.label_smoothing,
        calibrate_by=tuple(manifest.calibrate_by),
    )


def check_place(target: Path) -> None:
    """Refuse to write where something stands that is neither a bundle nor a deployment.

    Raises:
        BundleError: Something does.
    """
    taken = target.exists() and not is_bundle(target)
    if taken and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(
            f"{target} is taken by something that is no bundle, and is left as it is",
            allowed="a path where there is nothing, an empty directory, or a bundle, which is replaced",
            do="give another path, or remove what stands there",
        )


def _write_files(bundle: Bundle, directory: NewDirectory) -> None:
    model = bundle.model
    write_declaration(model, directory)
    directory.write(_DENSE, _packed(model.state_dict()))
    for part, table in sorted(model.tables.items()):
        for name in table.names:
            write_rows(table, name, directory, file_stem(part, name))
    fitted = {
        f"{action}/{name}": buffer
        for action, calibrator in sorted(bundle.calibrators.items())
        for name, buffer in calibrator.state_dict().items()
    }
    directory.write(_CALIBRATORS, _packed(fitted))
    directory.write(
        _METRICS, _json({name: _number(name, number) for name, number in bundle.metrics.items()}, "metrics")
    )
    directory.write(_PROVENANCE, _json({"versions": _versions(), **bundle.provenance}, "provenance"))


def _read_model(files: BundleFiles) -> Model:
    path = files.manifest.model
    model = files.empty_model()
    try:
        model.load_state_dict(files.tensors(_DENSE))
    except RuntimeError as error:
        raise files.misfit(_DENSE, path, error) from None
    stems = {file_stem(part, name): (table, name) for part, table in model.tables.items() for name in table.names}
    expected = {stem + ROWS for stem in stems}
    possible = expected | {stem + ending for stem in stems for ending in (ZEROS, STATES)}
    found = {name for name in files.manifest.files if name.startswith("rows/")}
    if not expected <= found <= possible:
        raise files.misfit("rows/", path, f"{sorted(found)} for the tables {sorted(stems)}")
    for stem, (table, name) in stems.items():
        zeros = files.path(stem + ZEROS) if stem + ZEROS in found else None
        read_rows(table, name, files.path(stem + ROWS), zeros)
    return model.eval()


def _read_calibrators(files: BundleFiles) -> dict[str, Calibrator]:
    fitted: dict[str, dict[str, Tensor]] = {action: {} for action in files.manifest.calibrators}
    for key, buffer in files.tensors(_CALIBRATORS).items():
        action, _, name = key.partition("/")
        fitted.setdefault(action, {})[name] = buffer
    if set(fitted) != set(files.manifest.calibrators):
        raise files.misfit(_CALIBRATORS, "manifest.json", sorted(fitted))
    calibrators = {}
    for action, path in files.manifest.calibrators.items():
        try:
            cls = class_at(path, Calibrator)  # type: ignore[type-abstract]
            calibrators[action] = cls.from_state(fitted[action]).eval()
        except BundleError:
            raise
        except (RankwellError, TypeError) as error:
            raise files.misfit(_CALIBRATORS, path, error) from error
    return calibrators


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors refuses tensors that share memory; a tied weight is written once for each of its names
    packed: bytes = safetensors.torch.save({name: t.detach().clone().contiguous() for name, t in tensors.items()})
    return packed


def _json(content: Mapping[str, Any], what: str) -> bytes:
    try:
        return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the {what} of a bundle cannot be written as JSON", found=str(error),
            allowed="text, finite numbers, true, false, null, and lists and mappings of them",
        ) from None  # fmt: skip


def _number(name: str, number: float) -> float | str:
    try:
        number = float(number)
    except (TypeError, ValueError):
        raise BundleError(
            f"metric {name!r} of the bundle is no number", found=number, allowed="a float, NaN where undefined"
        ) from None
    return number if math.isfinite(number) else str(number)  # JSON has no NaN: "nan", which float() reads back


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "rankwell": rankwell.__version__}
    try:
        requirements = importlib.metadata.requires("rankwell") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, not installed
        return versions
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name is not None and "extra ==" not in requirement:
            versions[name[0]] = importlib.metadata.version(name[0])
    return versions
