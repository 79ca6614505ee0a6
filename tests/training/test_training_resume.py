"""Training goes on from its checkpoints as if it had never stopped, and refuses those that aren't its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_example import (
    JOBS,
    LOOP,
    PLAN,
    Shifted,
    drawing_model,
    everything,
    fitted,
    in_order,
    jobs_log,
    jobs_table,
    logistic,
    same,
    shuffled,
    without_times,
)

from full_disk import files_of_at_most
from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, open_log
from rankwell.data.split import PARTS, HashSplit, Part
from rankwell.errors import CheckpointError, RankwellWarning
from rankwell.losses.pointwise import SmoothedBinaryCrossEntropy
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.checkpoint import Checkpoint, Checkpoints
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.history import TrainingHistory
from rankwell.training.loop import StepReport, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.training.run_identity import run_identity

TESTS = Path(__file__).parent.parent
RUN = {"seed": "0"}


# --- real processes, really killed -----------------------------------------------------------------------------------


def started(script: str, *arguments: Path | str) -> subprocess.Popen[str]:
    places = (TESTS, TESTS / "training", TESTS.parent / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, str(TESTS / "training" / script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    _, errors = process.communicate(timeout=120)
    assert process.returncode <= 0, errors
    return process.returncode


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_killed_in_mid_epoch_and_bit_equal(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    through = started("training_process.py", tmp_path / "apart", tmp_path / "through", "to the end")
    killed = started("training_process.py", folder, tmp_path / "killed", "killed")
    assert ended(killed) == -signal.SIGKILL
    assert not list(tmp_path.glob("killed*"))
    assert [path.name for path in sorted(folder.glob("*.safetensors"))] == [
        "step-000000000008.safetensors", "step-000000000011.safetensors",
    ]  # fmt: skip
    assert ended(started("training_process.py", folder, tmp_path / "resumed", "to the end")) == 0
    assert ended(through) == 0
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("through", "resumed"))
    assert len(one) > 20
    assert same(one, other)
    whole, rest = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("through", "resumed"))
    assert (whole["num_steps"], rest["num_steps"]) == (32, 21)
    assert whole["epochs"] == rest["epochs"]
    assert whole["best_epoch"] == rest["best_epoch"]


@pytest.mark.skipif(os.name != "posix", reason="limits and signals are POSIX's")
def test_killed_in_a_write(tmp_path: Path) -> None:
    assert ended(started("checkpoint_process.py", tmp_path)) == -signal.SIGXFSZ
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step-000000000001.safetensors", ".unfinished"}
    assert any((tmp_path / ".unfinished").iterdir())
    newest = Checkpoints(tmp_path, RUN).newest()
    assert newest is not None
    assert newest.step == 1
    assert (newest.tensors["rows"] == 1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001.safetensors"]


# --- stops at every place --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs() -> RequestLog:
    return jobs_log(200, 1)


@pytest.fixture(scope="module")
def tune() -> RequestLog:
    return jobs_log(100, 2)


def trained(
    jobs: RequestLog, tune: RequestLog, folder: Path | None, stop: int = 0
) -> tuple[dict[str, Tensor], TrainingHistory]:
    """Of 4 steps an epoch, stopped after so many steps of this start, or never."""
    num_steps = 0

    def on_step(report: StepReport) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == stop:
            raise KeyboardInterrupt

    model = drawing_model(jobs)
    history = fitted(model, shuffled(jobs, 50), in_order(tune), checkpoints=folder, on_step=on_step)
    return everything(model), history


def test_stopped_again_and_again(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    whole, history = trained(jobs, tune, None)
    num_starts, resumed = 0, None
    while resumed is None:
        num_starts += 1
        try:
            resumed = trained(jobs, tune, tmp_path, stop=4)  # before the 4th step's checkpoint; the 3rd step's stands
        except KeyboardInterrupt:
            continue
    assert num_starts == 6  # from 0, 3, 4, 7, 8 and 11: each third step is saved, and each fourth ends an epoch
    assert same(whole, resumed[0])
    assert without_times(history) == without_times(resumed[1])


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 8, 11, 12])
def test_stopped_after_any_step(stop: int, jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    whole, history = trained(jobs, tune, None)
    with pytest.raises(KeyboardInterrupt):
        trained(jobs, tune, tmp_path, stop)
    resumed, again = trained(jobs, tune, tmp_path)
    assert same(whole, resumed)
    assert without_times(history) == without_times(again)
    assert history.best_epoch == again.best_epoch


def test_the_objectives_own_parameters_go_on_too(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    def shift(folder: Path | None, stop: int) -> float:
        def on_step(report: StepReport) -> None:
            if (report.epoch, report.num_requests) == (1, stop):
                raise KeyboardInterrupt

        objective = Shifted()
        model = logistic(jobs)
        fitted(model, shuffled(jobs, 50), in_order(tune), checkpoints=folder, on_step=on_step, objective=objective)
        return objective.shift.item()

    with pytest.raises(KeyboardInterrupt):
        shift(tmp_path, stop=100)
    assert shift(tmp_path, stop=0) == shift(None, stop=0) != 0


def test_the_next_checkpoint_is_counted_from_the_last(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    for stop, newest in ((4, 3), (3, 4), (3, 4), (4, 7)):  # after step 4, twice after step 7 - 1, after step 8
        with pytest.raises(KeyboardInterrupt):
            trained(jobs, tune, tmp_path, stop)
        assert max(path.name for path in tmp_path.iterdir()) == f"step-{newest:012d}.safetensors"


def test_checkpoints_change_nothing(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    assert same(trained(jobs, tune, None)[0], trained(jobs, tune, tmp_path)[0])


def test_a_run_that_is_over_is_over(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    whole, history = trained(jobs, tune, tmp_path)
    steps: list[StepReport] = []
    model = drawing_model(jobs)
    again = fitted(model, shuffled(jobs, 50), in_order(tune), checkpoints=tmp_path, on_step=steps.append)
    assert not steps
    assert again == history  # wall times too: they are remembered
    assert same(whole, everything(model))
    assert not model.training


# --- whose checkpoint it is ------------------------------------------------------------------------------------------


def test_of_another_run_is_refused_naming_both(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    fitted(logistic(jobs), shuffled(jobs, 50), in_order(tune), seed=3, checkpoints=tmp_path)
    with pytest.raises(CheckpointError) as caught:
        fitted(logistic(jobs), shuffled(jobs, 50), in_order(tune), seed=4, checkpoints=tmp_path)
    text = str(caught.value)
    assert "step-000000000012.safetensors belongs to another run: they differ in seed" in text
    assert "found: {'seed': '3'}; allowed: {'seed': '4'}" in text
    assert "what to do: name another folder" in text


def test_everything_that_matters_tells_runs_apart(jobs: RequestLog, tune: RequestLog) -> None:
    base: dict[str, Any] = {
        "model": logistic(jobs),
        "objective": PointwiseObjective(JOBS),
        "plan": PLAN,
        "settings": dataclasses.asdict(LOOP),
        "data": {"train": shuffled(jobs, 50).fingerprint, "tune": in_order(tune).fingerprint},
        "seed": 0,
    }
    others = {
        "model": [drawing_model(jobs), logistic(jobs, seed=1), logistic(jobs_log(200, 5))],
        "objective": [PointwiseObjective(JOBS, shares=(0.5,)), PointwiseObjective(JOBS, SmoothedBinaryCrossEntropy())],
        "plan": [OptimizerPlan(), dataclasses.replace(PLAN, rows={"wide": RowWiseAdaGrad()}),
                 dataclasses.replace(PLAN, dense=DenseAdamW(betas=(0.9, 0.99))),
                 dataclasses.replace(PLAN, dense_groups={"bias": DenseAdamW()}),
                 dataclasses.replace(PLAN, warm_up_steps=5), dataclasses.replace(PLAN, clip_norm=1.0),
                 dataclasses.replace(PLAN, clip_rows={"wide": 1.0})],
        "settings": [dataclasses.asdict(dataclasses.replace(LOOP, **change))
                     for change in ({"max_epochs": 7}, {"autocast": "bfloat16"})],
        "data": [{**base["data"], "train": batches.fingerprint} for batches in
                 (shuffled(jobs, 49), shuffled(jobs, 50, seed=1), shuffled(jobs_log(201, 1), 50), in_order(jobs, 50))]
                + [{**base["data"], "tune": in_order(jobs).fingerprint}],
        "seed": [1],
    }  # fmt: skip
    own = run_identity(**base)
    assert own == run_identity(**{**base, "model": logistic(jobs), "objective": PointwiseObjective(JOBS)})
    assert own == run_identity(
        **{**base, "settings": dataclasses.asdict(dataclasses.replace(LOOP, checkpoint_every_steps=9))}
    )
    for topic, variants in others.items():
        for variant in variants:
            assert own != run_identity(**{**base, topic: variant}), (topic, variant)


def test_batches_are_known_by_what_they_read(jobs: RequestLog, tmp_path: Path) -> None:
    def of(log: RequestLog, part: Part) -> str:
        return Batches(log, HashSplit(), part, num_requests=50, seed=0).fingerprint

    assert of(jobs, "train") == of(
        jobs_log(200, 9), "train"
    )  # values don't count: reading them all would cost an epoch
    assert len({of(jobs, part) for part in PARTS}) == 4
    for name in ("here", "there"):
        pq.write_table(jobs_table(100, 1)[0], tmp_path / name)
    here, there = (open_log(tmp_path / name, JOBS, layout="flat") for name in ("here", "there"))
    assert of(here, "tune") == of(there, "tune")


def test_no_address_stands_in_an_identity(jobs: RequestLog, tune: RequestLog) -> None:
    def focal(logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
        return logits_C.sum()

    class Rule:
        """A loss without a repr of its own."""

        def __call__(self, logits_C: Tensor, labels_C: Tensor, *, request_C: Tensor, weights_C: Tensor) -> Tensor:
            return logits_C.sum()

    for loss in (focal, lambda *_, **__: torch.zeros(()), Rule()):
        identity = run_identity(
            logistic(jobs), PointwiseObjective(JOBS, loss), PLAN, dataclasses.asdict(LOOP),
            {"train": shuffled(jobs, 50).fingerprint, "tune": in_order(tune).fingerprint}, 0,
        )  # fmt: skip
        assert "0x" not in str(identity)


# --- damaged files ---------------------------------------------------------------------------------------------------


def saved(folder: Path, steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, RUN)
    for step in range(1, steps + 1):
        rows = torch.full((300, 4), float(step))
        tensors = {"rows": rows, "none": torch.zeros(0, 3), "count": torch.tensor(step), "sightings": rows.byte()}
        checkpoints.save(Checkpoint(step, tensors, {"epoch": step, "loss": 0.1 * step, "best": float("inf")}))
    return checkpoints


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    newest = saved(tmp_path, 3).newest()
    assert newest is not None
    assert newest.step == 3
    assert newest.progress == {"epoch": 3, "loss": 0.1 * 3, "best": float("inf")}
    assert {name: (t.dtype, tuple(t.shape)) for name, t in newest.tensors.items()} == {
        "rows": (torch.float32, (300, 4)), "none": (torch.float32, (0, 3)), "count": (torch.int64, ()),
        "sightings": (torch.uint8, (300, 4)),
    }  # fmt: skip
    assert (newest.tensors["rows"] == 3).all()


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new" / "deep", RUN).newest() is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = saved(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt", "step-000000000004.safetensors", "step-000000000005.safetensors",
    ]  # fmt: skip
    checkpoints.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    checkpoints.clear()
    assert not tmp_path.exists()


def damage(path: Path, way: str) -> None:
    content = bytearray(path.read_bytes())
    match way:
        case "truncated":
            content = content[: len(content) // 2]
        case "empty":
            content = bytearray()
        case "a byte of the rows":
            content[-100] ^= 1
        case "a byte of the notes":
            at = content.index(b"epoch")
            content[at] ^= 1
    path.write_bytes(content)


DAMAGES = ("truncated", "empty", "a byte of the rows", "a byte of the notes")


@pytest.mark.parametrize("way", DAMAGES)
def test_damaged_newest_the_one_before_is_used(way: str, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3)
    damage(tmp_path / "step-000000000003.safetensors", way)
    with pytest.warns(RankwellWarning, match=r"(?s)step-000000000003.*goes on from step-000000000002"):
        newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 2
    assert (newest.tensors["rows"] == 2).all()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000002.safetensors"]


@pytest.mark.parametrize("way", DAMAGES)
def test_all_damaged_says_what_to_do(way: str, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2)
    for path in tmp_path.iterdir():
        damage(path, way)
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint .* is whole.*step-0+2.*step-0+1.*delete them"):
        checkpoints.newest()
    assert len(list(tmp_path.iterdir())) == 2  # nothing is thrown away unasked


def test_a_damaged_checkpoint_of_a_training(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    whole, history = trained(jobs, tune, None)
    with pytest.raises(KeyboardInterrupt):
        trained(jobs, tune, tmp_path, stop=8)
    newest = max(tmp_path.iterdir())
    assert newest.name == "step-000000000007.safetensors"
    damage(newest, "truncated")
    with pytest.warns(RankwellWarning, match="goes on from step-000000000004"):
        resumed, again = trained(jobs, tune, tmp_path)
    assert same(whole, resumed)
    assert without_times(history) == without_times(again)


def test_an_unknown_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankwell.training.checkpoint._FORMAT", "3")
    checkpoints = saved(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"unknown format; found: 3; allowed: 2"):
        checkpoints.newest()


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
@pytest.mark.parametrize("room", [0, 100, 4000])
def test_a_full_disk_leaves_the_earlier_ones_whole(room: int, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2)
    with (
        files_of_at_most(room),
        pytest.raises(CheckpointError, match=r"(?s)could not write.*step-0+3.*free disk space"),
    ):
        checkpoints.save(Checkpoint(3, {"rows": torch.zeros(300, 4)}, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000000001.safetensors", "step-000000000002.safetensors",
    ]  # fmt: skip
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 2
    checkpoints.save(Checkpoint(3, {"rows": torch.zeros(300, 4)}, {}))  # the disk has room again
    assert checkpoints.newest() is not None


def test_each_write_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed under its other name, then renamed, then the folder is flushed."""
    happened: list[str] = []
    flush, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        happened.append("flush " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))  # noqa: PTH119, PTH115
        flush(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        happened.append(f"rename to {target.name}")
        return replace(self, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell files by their descriptors")
    folder = tmp_path / "kept"
    checkpoints = Checkpoints(folder, RUN)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    checkpoints.save(Checkpoint(7, {"rows": torch.zeros(2)}, {}))
    name = "step-000000000007.safetensors"
    assert happened == [f"flush {name}", f"rename to {name}", "flush kept"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="no checkpoints can be kept in"):
        Checkpoints(tmp_path / "file", RUN)


def test_objective_and_plan_are_told_apart_by_fit(jobs: RequestLog, tune: RequestLog, tmp_path: Path) -> None:
    fitted(logistic(jobs), shuffled(jobs, 50), in_order(tune), checkpoints=tmp_path)
    smoothed = PointwiseObjective(JOBS, SmoothedBinaryCrossEntropy(0.1))
    with pytest.raises(CheckpointError, match="they differ in objective, optimizers, train;"):
        fit(logistic(jobs), smoothed, OptimizerPlan(), shuffled(jobs, 40), in_order(tune), LOOP, seed=0,
            checkpoints=tmp_path)  # fmt: skip
