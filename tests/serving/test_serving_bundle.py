from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import serving_example as example
import torch

from rankwell.calibration.isotonic import Isotonic
from rankwell.calibration.platt import Platt
from rankwell.calibration.uncalibrated import Uncalibrated
from rankwell.errors import BundleError, RecipeError, TrainingError
from rankwell.models.wide_deep import Deep, Logistic, LogisticSettings, WideDeep
from rankwell.schema import Action
from rankwell.serving.bundle import Bundle, read_bundle, write_bundle
from rankwell.serving.zero_file import read_zeros
from rankwell.tables.loan import IdColumn

TABLES = ("job", "member", "pay", "skills", "title")
FILES = sorted(
    [
        "calibrators.safetensors",
        "dense.safetensors",
        "manifest.json",
        "manifest.sha256",
        "metrics.json",
        "provenance.json",
        *(f"rows/crosses/title_x_pay.{kind}" for kind in ("arrow", "states", "zeros")),
        *(f"rows/deep/{table}.arrow" for table in TABLES),
        *(f"rows/wide/{table}.{kind}" for table in TABLES for kind in ("arrow", "states")),
        *(f"rows/wide/{table}.zeros" for table in TABLES if table != "pay"),  # each of its few buckets has a weight
        "schema.json",
        "settings.json",
        "statistics.json",
    ]
)
KINDS = [name for name in FILES if "rows/" not in name or name.startswith("rows/wide/job.")]
"""One file of each kind."""
FEATURES = example.batch(num_requests=30, seed=99).features


@pytest.fixture(scope="module", name="bundle")
def _bundle() -> Bundle:
    return example.example_bundle(label_smoothing=0.1)


@pytest.fixture(scope="module", name="written")
def _written(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "bundle"
    write_bundle(bundle, path)
    return path


@pytest.fixture(name="copy")
def _copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def logits(bundle: Bundle) -> torch.Tensor:
    with torch.inference_mode():
        return bundle.model.eval()(FEATURES)


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    text = json.dumps(manifest)
    (path / "manifest.json").write_text(text)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")


def rewrite_file(path: Path, name: str, content: bytes) -> None:
    """A file that is not as it was written, but whose checksum is right."""
    (path / name).write_bytes(content)
    record = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(path, lambda manifest: manifest["files"].update({name: record}))


# --- what is written comes back


def test_logits_and_probabilities_come_back_in_every_bit(bundle: Bundle, written: Path) -> None:
    back = read_bundle(written)
    logits_CA = logits(bundle)
    assert torch.equal(logits(back), logits_CA)
    assert float(logits_CA.std()) > 0.1  # they are not all one number
    no_segments = torch.empty(len(logits_CA), 0, dtype=torch.int64)
    for a, action in enumerate(("click", "apply")):
        assert torch.equal(
            back.calibrators[action](logits_CA[:, a], no_segments),
            bundle.calibrators[action](logits_CA[:, a], no_segments),
        )


def test_all_the_rest_comes_back_too(bundle: Bundle, written: Path) -> None:
    back = read_bundle(str(written))
    assert type(back.model) is WideDeep
    assert back.schema == bundle.schema
    assert back.model.settings == bundle.model.settings
    assert back.model.statistics == bundle.model.statistics
    assert (back.created_us, back.label_smoothing) == (bundle.created_us, 0.1)
    assert back.metrics["test.click.log_loss"] == 0.1 + 0.2
    assert math.isnan(back.metrics["test.apply.auc"])
    assert back.metrics["worst"] == math.inf
    assert bundle.provenance.items() <= back.provenance.items()
    assert back.provenance["versions"]["torch"] == torch.__version__


def test_a_read_bundle_written_again_is_the_same_files_but_for_the_state(written: Path, tmp_path: Path) -> None:
    write_bundle(read_bundle(written), tmp_path / "again")
    kept = [name for name in FILES if not name.endswith(".states") and not name.startswith("manifest")]
    assert sorted(str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*.*")) == sorted(
        [*kept, "manifest.json", "manifest.sha256"]
    )
    for name in kept:
        assert (tmp_path / "again" / name).read_bytes() == (written / name).read_bytes(), name


def test_the_files_are_those_of_the_docstring_and_only_data(written: Path) -> None:
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()) == FILES


def test_a_read_model_only_reads(written: Path) -> None:
    model = read_bundle(written).model
    assert not any(module.training for module in model.modules())
    with pytest.raises(TrainingError, match="no rule"):
        model.tables["deep"].checkout([[IdColumn("job", torch.tensor([1]))]])


def test_an_untrained_model_and_logits_taken_at_their_word(tmp_path: Path) -> None:
    model = Logistic(example.SCHEMA, example.STATISTICS, seed=3)
    bundle = Bundle(model=model, calibrators={"click": Uncalibrated(), "apply": Uncalibrated()}, created_us=0)
    write_bundle(bundle, tmp_path / "b")
    back = read_bundle(tmp_path / "b")
    assert torch.equal(logits(back), logits(bundle))
    assert (back.metrics, type(back.calibrators["apply"])) == ({}, Uncalibrated)


def test_of_a_large_table_only_the_rows_that_serving_can_read_are_stored(tmp_path: Path) -> None:
    num_rows = 400_000
    tables = (example.SCHEMA.tables[0].model_copy(update={"num_rows": num_rows}),)
    schema = example.SCHEMA.model_copy(update={"tables": tables})
    model = example.trained(Logistic(schema, example.STATISTICS, LogisticSettings(admission=2), seed=3))
    bundle = Bundle(model=model, calibrators={"click": Platt(2.0, 0.5), "apply": Isotonic.from_state(
        {"knot_logits_B": torch.zeros(1).double(), "knot_log_odds_B": torch.ones(1).double()}
    )}, created_us=0)  # fmt: skip
    write_bundle(bundle, tmp_path / "b")
    table = model.tables["wide"]
    (job,) = table.chunks("job")
    is_own, is_seen_twice, is_zero = job.keys_n < 0, job.sightings_n >= 2, (job.rows_nW == 0).all(dim=1)
    with pa.ipc.open_file(tmp_path / "b" / "rows" / "wide" / "job.arrow") as file:
        rows = file.read_all()
    kept = job.where(is_own | (is_seen_twice & ~is_zero))
    assert rows["key"].to_pylist() == kept.keys_n.tolist()
    assert rows["sightings"].to_pylist() == kept.sightings_n.tolist()
    assert rows["row"].to_pylist() == kept.rows_nW.tolist()
    zeros = [(k, s) for keys, sightings in read_zeros(tmp_path / "b" / "rows" / "wide" / "job.zeros")
             for k, s in zip(keys.tolist(), sightings.tolist(), strict=True)]  # fmt: skip
    gone = job.where(~is_own & is_seen_twice & is_zero)
    assert zeros == list(zip(gone.keys_n.tolist(), gone.sightings_n.tolist(), strict=True))
    assert zeros
    assert 10 < len(rows) < len(job) < 100 < num_rows  # one sighting is not enough here
    assert sum(path.stat().st_size for path in (tmp_path / "b" / "rows" / "wide").glob("job.*")) < 20_000
    assert torch.equal(logits(read_bundle(tmp_path / "b")), logits(bundle))


def test_parents_are_made_and_an_empty_directory_is_filled(bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(bundle, tmp_path / "a" / "b" / "c")
    (tmp_path / "empty").mkdir()
    write_bundle(bundle, tmp_path / "empty")
    for path in (tmp_path / "a" / "b" / "c", tmp_path / "empty"):
        assert torch.equal(logits(read_bundle(path)), logits(bundle))


# --- damage is refused


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_anywhere_is_refused(copy: Path, name: str, place: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match="damaged") as refused:
        read_bundle(copy)
    assert name in str(refused.value)
    assert "found: " in str(refused.value)
    assert "allowed: " in str(refused.value)
    assert "copy the bundle again" in str(refused.value)


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} of the bundle .* is missing; found: no such file"):
        read_bundle(copy)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_a_truncated_file_is_refused(copy: Path, name: str, keep: float) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BundleError, match="damaged") as refused:
        read_bundle(copy)
    assert name in str(refused.value)


def test_a_file_that_the_manifest_does_not_list_is_not_looked_at(bundle: Bundle, copy: Path) -> None:
    (copy / "notes.txt").write_text("ours")
    (copy / "rows" / ".nfs0001").write_bytes(b"\0")
    assert torch.equal(logits(read_bundle(copy)), logits(bundle))


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_an_unknown_format_version_is_refused(copy: Path, version: object) -> None:
    rewrite_manifest(copy, lambda manifest: manifest.update(format_version=version, unheard_of=1))
    with pytest.raises(BundleError, match=f"found: format_version {version!r}, by .*; allowed: format_version 2"):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.update(model="os:system"), "no subclass of rankwell.models.model:Model"),
        (lambda m: m["calibrators"].update(click="torch.nn:Linear"), "no subclass of rankwell.calibration"),
        (lambda m: m["calibrators"].update(share=m["calibrators"]["click"]), "calibrators.safetensors"),
        (lambda m: m["calibrators"].pop("click"), "calibrators.safetensors"),
        (lambda m: m["files"].update({"../secret.json": m["files"]["schema.json"]}), "files"),
        (lambda m: m["files"].update({"/etc/hosts.json": m["files"]["schema.json"]}), "files"),
        (lambda m: m["files"].pop("metrics.json"), "has no metrics.json"),
        (lambda m: m["files"].pop("rows/deep/job.arrow"), "rows/"),
        (lambda m: m.update(model="rankwell.models.wide_deep:Logistic"), "settings.json"),
        (lambda m: m.update(label_smoothing=1.0), "label_smoothing"),
        (lambda m: m.pop("format"), "manifest.json"),
        (lambda m: m.update(more=1), "more"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    rewrite_manifest(copy, change)
    with pytest.raises(BundleError, match=where):
        read_bundle(copy)


def test_files_of_another_bundle_are_refused_by_what_they_do_not_fit(copy: Path, tmp_path: Path) -> None:
    model = Deep(example.SCHEMA, example.STATISTICS, seed=0)
    other = Bundle(model=model, calibrators={"click": Uncalibrated(), "apply": Uncalibrated()}, created_us=0)
    write_bundle(other, tmp_path / "other")
    untouched = shutil.copytree(copy, tmp_path / "untouched")
    for name in ("dense.safetensors", "rows/deep/job.arrow", "calibrators.safetensors"):
        rewrite_file(copy, name, (tmp_path / "other" / name).read_bytes())
        with pytest.raises(BundleError, match=name.partition(".")[0]):
            read_bundle(copy)
        shutil.rmtree(copy)
        shutil.copytree(untouched, copy)
    for name in ("dense.safetensors", "rows/deep/job.arrow", "calibrators.safetensors", "metrics.json", "schema.json"):
        rewrite_file(copy, name, b"not even of the format")
        with pytest.raises(BundleError):
            read_bundle(copy)


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle at .*nowhere; found: nothing"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="file is no bundle; found: a file"):
        read_bundle(tmp_path / "file")
    with pytest.raises(BundleError, match=r"is no bundle; found: \['file'\]; allowed: a directory with manifest.json"):
        read_bundle(tmp_path)


def test_after_a_swap_cut_off_reading_says_how_to_go_on(bundle: Bundle, copy: Path) -> None:
    old = copy.rename(copy.with_name("bundle.old-0badcafe"))
    with pytest.raises(BundleError, match=f"the old one stands beside it.*mv {old} {copy}".replace(".*", "(.|\n)*")):
        read_bundle(copy)
    assert torch.equal(logits(read_bundle(old)), logits(bundle))
    write_bundle(bundle, copy)
    assert not old.exists()
    assert torch.equal(logits(read_bundle(copy)), logits(bundle))


# --- writing is all or nothing


# every file as it is written and as it is forced to disk, and the directory itself
FAILURES = [(call, name) for name in KINDS for call in ("write", "fsync")] + [("fsync", "")]


@pytest.mark.parametrize(("call", "name"), FAILURES)
def test_a_full_disk_leaves_the_old_bundle_whole(
    written: Path, bundle: Bundle, copy: Path, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    real: Callable[..., Any] = getattr(os, call)

    def failing(descriptor: int, *rest: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".new-" in path and (path.endswith(f"/{name}") if name else Path(path).is_dir()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, *rest)

    monkeypatch.setattr(os, call, failing)
    changed = replace(bundle, metrics={"another": 1.0})
    with pytest.raises(BundleError, match="No space left on device") as refused:
        write_bundle(changed, copy)
    assert str(copy) in str(refused.value)
    assert "what to do: free space" in str(refused.value)
    monkeypatch.undo()
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]  # nothing half-written stays
    assert {name: (copy / name).read_bytes() for name in FILES} == {
        name: (written / name).read_bytes() for name in FILES
    }
    write_bundle(changed, copy)
    assert read_bundle(copy).metrics == {"another": 1.0}


def test_a_disk_that_writes_something_else_is_noticed_before_the_swap(
    bundle: Bundle, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lying(descriptor: int, content: memoryview) -> int:
        return real(descriptor, bytes(content).replace(b"click", b"clack"))

    real = os.write
    monkeypatch.setattr(os, "write", lying)
    with pytest.raises(BundleError, match="damaged"):
        write_bundle(bundle, copy)
    monkeypatch.undo()
    assert torch.equal(logits(read_bundle(copy)), logits(bundle))
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_never_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        with pytest.raises(BundleError, match=f"{name} is taken by something that is no bundle"):
            write_bundle(bundle, tmp_path / name)
    assert (tmp_path / "home" / "thesis.tex").read_text() == (tmp_path / "file").read_text() == "x"


def test_a_damaged_bundle_may_be_replaced_and_a_link_stays_a_link(bundle: Bundle, copy: Path) -> None:
    (copy / "manifest.json").unlink()
    link = copy.with_name("current")
    link.symlink_to(copy)
    write_bundle(bundle, link)
    assert link.is_symlink()
    assert torch.equal(logits(read_bundle(link)), logits(bundle))


# --- what cannot be a bundle


def test_each_action_has_one_calibrator(bundle: Bundle) -> None:
    for calibrators in ({}, {"click": Uncalibrated()}, {**bundle.calibrators, "share": Uncalibrated()}):
        with pytest.raises(BundleError, match="one calibrator for each action .* allowed: \\['click', 'apply'\\]"):
            replace(bundle, calibrators=calibrators)


def test_an_epsilon_that_cannot_be_undone_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RecipeError, match="epsilon"):
        replace(bundle, label_smoothing=1.0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"metrics": {"auc": "high"}}, "metric 'auc' of the bundle is no number; found: high"),
        ({"provenance": {"log": Path("x")}}, "provenance of a bundle cannot be written as JSON"),
        ({"provenance": {"rate": float("nan")}}, "provenance of a bundle cannot be written as JSON"),
    ],
)
def test_what_json_cannot_say_is_refused_and_nothing_stays(
    bundle: Bundle, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    with pytest.raises(BundleError, match=what):
        write_bundle(replace(bundle, **change), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_a_class_that_cannot_be_found_again_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    class Local(Logistic):  # type: ignore[misc]
        pass

    schema = example.SCHEMA.model_copy(update={"actions": (Action(name="click"),)})
    local = Bundle(model=Local(schema, example.STATISTICS, seed=0), calibrators={"click": Uncalibrated()}, created_us=0)
    with pytest.raises(BundleError, match=r"test_serving_bundle:.*<locals>.Local"):
        write_bundle(local, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
