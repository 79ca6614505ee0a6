"""Deployments that no server may answer with, most of them made of one that it may."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from rankwell.calibration.platt import Platt
from rankwell.data.statistics import NumericStatistics
from rankwell.models.wide_deep import Logistic
from rankwell.schema import Action, Categorical, Schema
from rankwell.serving.bundle import Bundle
from rankwell.serving.deployment import write_deployment
from rankwell.serving.rollout import Rollout, RolloutFolder

__all__ = ["bad_bundles", "force"]

_SELF_TEST: Final = "self_test.json"
_GRAPH: Final = "graph.onnx"


def bad_bundles(good: Path, folder: Path) -> dict[str, Path]:
    """One of each kind, by what is wrong with it."""
    paths = {kind: folder / kind.replace(" ", "_") for kind in ("damaged", "cut off", "wrong answers", "newer format")}
    for path in paths.values():
        shutil.copytree(good, path)
    graph = paths["damaged"] / _GRAPH
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    os.truncate(paths["cut off"] / _GRAPH, len(content) // 2)

    test = json.loads((good / _SELF_TEST).read_bytes())
    test["cases"][0]["probabilities"][0][0] *= 0.99
    text = json.dumps(test).encode()
    (paths["wrong answers"] / _SELF_TEST).write_bytes(text)
    manifest = json.loads((good / "manifest.json").read_bytes())
    record = {"num_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    _seal(paths["wrong answers"], manifest | {"files": manifest["files"] | {_SELF_TEST: record}})
    _seal(paths["newer format"], manifest | {"format_version": manifest["format_version"] + 1})

    schema = Schema(features=(Categorical(name="film"),), actions=(Action(name="click"),), item="film")
    other = Bundle(
        model=Logistic(schema, NumericStatistics(), seed=0), calibrators={"click": Platt(1.0, 0.0)}, created_us=0
    )
    paths["another schema"] = folder / "another_schema"
    write_deployment(other, paths["another schema"])
    return paths


def force(root: Path, bad: Path) -> None:
    """Put a bundle where servers look for it, and point at it, past all that `RolloutFolder.deploy` would say."""
    folder = RolloutFolder(root)
    before = folder.read()
    bundle_id = hashlib.sha256(bad.name.encode()).hexdigest()[:16]  # that of its manifest may be a whole one's
    shutil.copytree(bad, folder.path_of(bundle_id))
    _point(folder, Rollout(current=bundle_id, previous=before.current))


def _point(folder: RolloutFolder, rollout: Rollout) -> None:
    new = folder.pointer.with_suffix(".new")
    new.write_text(rollout.model_dump_json())
    new.replace(folder.pointer)


def _seal(path: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1).encode() + b"\n"
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
