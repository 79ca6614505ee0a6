"""The verbs, as a user types them, on a small marketplace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rankwell.app.command_line import app, main
from rankwell.errors import RankwellError

RECIPE = Path(__file__).parents[2] / "recipes" / "marketplace.py"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


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
    numbers = json.loads((demo / "seeds.json").read_text())
    assert numbers["calibrated/auc/sd"] > 0
    assert (demo / "trained" / "manifest.json").is_file()
    assert not list(demo.glob(".trained.checkpoints*"))


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
