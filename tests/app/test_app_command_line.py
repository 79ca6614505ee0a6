"""The verbs, as a user types them, on a small marketplace."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from rankwell.app.command_line import app, main
from rankwell.app.run import evaluate_run, train_runs
from rankwell.errors import RankwellError
from rankwell.serving.bundle import read_bundle
from rankwell.training.loop import StepReport
from rankwell.training.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "marketplace.py"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def shown(table: Table) -> str:
    """The words of a table, its frame left out."""
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    return " ".join("".join(" " if letter in "│┃" else letter for letter in printed).split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    assert "report.html" in run("demo", "--out", out, "--requests", 4000, "--json", out / "numbers.json").replace(
        "\n", ""
    )
    return out


def test_demo_leaves_a_report_a_bundle_and_its_numbers(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert len(page) < 2_000_000
    assert "Wide &amp; Deep" in page
    numbers = json.loads((demo / "numbers.json").read_text())
    assert 0.2 < numbers["Wide & Deep/calibrated/log_loss"] < 0.4
    assert numbers["Wide & Deep/calibrated/bayes_log_loss"] < numbers["Wide & Deep/calibrated/log_loss"]
    assert "Right for every action?" in page
    for action in ("like", "share", "apply"):
        of_action = "Wide & Deep/calibrated/" + action
        assert numbers[f"{of_action}/mean_observed"] < numbers["Wide & Deep/calibrated/mean_observed"]
        assert numbers[f"{of_action}/auc"] > 0.55
        assert numbers[f"{of_action}/calibration_ratio_low"] < 1.3
    impressions = json.loads((demo / "impressions.json").read_text())
    assert [row["position"] for row in impressions] == list(range(1, len(impressions) + 1))


def test_the_bundle_ranks_the_request_that_the_demo_left(demo: Path) -> None:
    text = run("rank", demo / "bundle", demo / "request.json", "--length", 3, "--json", demo / "new" / "ranked.json")
    assert "best first" in text
    ranked = json.loads((demo / "new" / "ranked.json").read_text())
    assert ranked == json.loads((demo / "impressions.json").read_text())[:3]
    probabilities = [row["probability"] for row in ranked]
    assert probabilities == sorted(probabilities, reverse=True)


def test_the_bundle_is_evaluated_and_reported_as_when_it_was_trained(demo: Path) -> None:
    run("evaluate", demo / "bundle", RECIPE, "--data", demo / "data", "--json", demo / "again.json")
    again, first = (json.loads((demo / name).read_text()) for name in ("again.json", "numbers.json"))
    assert again["calibrated/auc"] == pytest.approx(first["Wide & Deep/calibrated/auc"], abs=1e-9)
    assert again["calibrated/log_loss"] == pytest.approx(first["Wide & Deep/calibrated/log_loss"], abs=1e-9)
    run("report", demo / "bundle", RECIPE, "--data", demo / "data", "--out", demo / "own.html")
    assert "<svg" in (demo / "own.html").read_text()


def test_train_writes_a_bundle_and_mean_and_sd_over_seeds(demo: Path) -> None:
    text = run(
        "train", RECIPE, "--data", demo / "data", "--out", demo / "trained", "--seeds", 2, "--json", demo / "seeds.json"
    )
    assert "2 seeds" in text
    assert "rows after training, seed 0" in text
    assert "every action" in text
    numbers = json.loads((demo / "seeds.json").read_text())
    assert numbers["calibrated/auc/sd"] > 0
    assert numbers["calibrated/share/auc/sd"] > 0
    assert (demo / "trained" / "manifest.json").is_file()
    assert not list(demo.glob(".trained.checkpoints*"))


def test_a_truth_beside_the_log_stands_beside_the_models(demo: Path, tmp_path: Path) -> None:
    recipe, bundle = read_recipe(str(RECIPE)), read_bundle(demo / "bundle")
    first = json.loads((demo / "numbers.json").read_text())
    known = evaluate_run(bundle, recipe, demo / "data")
    assert known.numbers["calibrated/bayes_log_loss"] == first["Wide & Deep/calibrated/bayes_log_loss"]
    assert f"the truth (Bayes) {known.numbers['calibrated/bayes_log_loss']:.4f}" in shown(known.tables[0])
    assert "excess log loss" in shown(known.tables[1])
    (tmp_path / "log").symlink_to(demo / "data" / "log")
    for content in (None, {"request_id": [1], "statement": ["all swans are white"]}):
        if content is not None:
            (tmp_path / "truth").mkdir()
            pq.write_table(pa.table(content), tmp_path / "truth" / "part-0.parquet")
        unknown = evaluate_run(bundle, recipe, tmp_path)
        assert "Bayes" not in "".join(map(shown, unknown.tables))
        assert unknown.numbers["calibrated/auc"] == known.numbers["calibrated/auc"]


def test_a_killed_run_of_several_seeds_trains_no_seed_twice(demo: Path, tmp_path: Path) -> None:
    steps: list[StepReport] = []

    def killed_in_seed_1(report: StepReport) -> None:
        steps.append(report)
        if sum(step.num_requests >= step.num_requests_total for step in steps) > recipe.loop.max_epochs:
            raise KeyboardInterrupt

    recipe = read_recipe(str(RECIPE))
    recipe = replace(recipe, loop=replace(recipe.loop, max_epochs=1))
    with pytest.raises(KeyboardInterrupt):
        train_runs(recipe, demo / "data", seeds=(0, 1), out=tmp_path / "bundle", on_step=killed_in_seed_1)
    of_seed_0 = tmp_path / ".bundle.checkpoints-0"
    assert list(of_seed_0.glob("step-*.safetensors"))
    (of_seed_0 / "notes.txt").write_text("someone's own")
    num_killed = len(steps)
    steps.clear()
    train_runs(recipe, demo / "data", seeds=(0, 1), out=tmp_path / "bundle", on_step=steps.append)
    assert 0 < len(steps) < num_killed  # of seed 1 alone: its epoch, whose end the first run never saw
    assert len({step.num_requests for step in steps}) == len(steps)
    assert [path.name for path in of_seed_0.iterdir()] == ["notes.txt"]
    assert not (tmp_path / ".bundle.checkpoints-1").exists()


def test_simulate_refuses_a_folder_that_holds_a_log(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankwellError, match="exists already"):
        run("simulate", "--out", demo / "data", "--requests", 10)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"no request at .*request\.json"),
        (b"not json", r"request\.json is not JSON"),
        ('{"context": {"title": "Köchin"}}'.encode("latin-1"), r"request\.json is not UTF-8"),
        (b"[1, 2]", "the request is not a mapping; found: list"),
        (b"null", "the request is not a mapping; found: NoneType"),
    ],
)
def test_rank_says_what_is_wrong_with_a_request(demo: Path, tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RankwellError, match=words):
        run("rank", demo / "bundle", path)


def test_rank_reads_standard_input(demo: Path) -> None:
    words = ["rank", str(demo / "bundle"), "-", "--length", "1"]
    result = CliRunner().invoke(app, words, input=(demo / "request.json").read_bytes(), catch_exceptions=False)
    assert result.exit_code == 0
    assert "best first" in result.output
    with pytest.raises(RankwellError, match="- is not UTF-8"):
        CliRunner().invoke(app, words, input=b"\xff", catch_exceptions=False)


def test_our_errors_exit_with_2_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    request.write_text("{}")
    monkeypatch.setattr("sys.argv", ["rankwell", "rank", str(tmp_path / "nowhere"), str(request)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "BundleError" in message
    assert "Traceback" not in message
