"""The report: one file, complete, honest about what is undefined, and readable in a browser."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from report_sample import sample_report

from headless_browser import opened
from rankwell.app.comparison import comparison_rows
from rankwell.app.report import ReportData, render_report, write_report
from rankwell.app.verdict import verdict_of
from rankwell.errors import RecipeError, UndefinedMetricWarning
from rankwell.evaluation.calibration_error import EceNull
from rankwell.evaluation.intervals import Interval
from rankwell.evaluation.report import Evaluation, evaluate

FIGURES = ["reliability", "segments", "training", "stages"]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample_report()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render_report(data)


class _Page(HTMLParser):
    """Elements with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_is_one_small_file_that_loads_nothing(page: str) -> None:
    assert len(page.encode()) < 2_000_000
    parsed = _Page(page)
    assert not parsed.open
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    addresses = set(re.findall(r"\w+://[^\s\"'<>)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not places
    assert "@import" not in page
    for _, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_shows_every_figure_with_words_for_who_cannot_see_it(page: str) -> None:
    figures = [attributes for tag, attributes in _Page(page).elements if tag == "svg"]
    assert [figure["data-figure"] for figure in figures] == FIGURES
    assert all(figure["role"] == "img" and len(figure["aria-label"] or "") > 40 for figure in figures)


def test_identifiers_are_unique_and_links_lead_to_them(page: str) -> None:
    elements = _Page(page).elements
    known = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert set(known.values()) == {1}
    links = {attributes.get("href") or attributes.get("xlink:href") for _, attributes in elements} - {None}
    clips = set(re.findall(r"url\((#\w+)\)", page))
    assert {str(link)[1:] for link in links | clips} <= set(known)


def test_colours_come_from_the_page_and_each_is_defined_for_light_and_dark(page: str) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert len(used) > 8
    assert all(len(re.findall(rf"{name}: #", page)) == 2 for name in used)
    drawn = page[page.index("<svg") :]
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawn)) <= {"#ffffff"}


def test_says_what_the_numbers_are(data: ReportData, page: str) -> None:
    text = _Page(page).text
    model = data.headline_model()
    for number in (model.after.auc, model.after.log_loss, model.before.ece, model.after.ece):
        assert f"{number:.4f}" in text
    assert f"{model.after.calibration_ratio:.3f} of the observed" in text
    assert f"{model.after.truth.bayes_log_loss:.4f} in expectation (the Bayes log loss)" in text  # type: ignore[union-attr]
    for name in ("Logistic", "Deep", "Wide & Deep", "director", "train 60,000 · tune 10,000"):
        assert name in text


def test_equal_data_give_equal_bytes_whatever_the_process_draws_elsewhere(data: ReportData, page: str) -> None:
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert render_report(data) == page
        assert matplotlib.rcParams["font.size"] == 30


def test_escapes_everything_that_comes_from_data() -> None:
    evil = "<script>alert('it')</script>\"&amp;$x^2$"
    data = sample_report(num_requests=60, title=evil)
    models = tuple(dataclasses.replace(model, name=f"{model.name} {evil}") for model in data.models)
    data = dataclasses.replace(
        data,
        title=evil,
        subtitle=evil,
        models=models,
        headline=models[0].name,
        actions=evil,
        stage_seconds={evil: 1.0},
        provenance={evil: evil},
        segment_names={"device": {"phone": evil}},
        notes=(evil,),
    )
    page = render_report(data)
    parsed = _Page(page)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "<script" not in page
    assert parsed.text.count(evil) > 12


def test_undefined_is_said_and_never_a_zero(data: ReportData) -> None:
    with pytest.warns(UndefinedMetricWarning):
        nothing = evaluate(np.full(40, 0.2), None, np.zeros(40), np.ones(40), request_C=np.arange(40) // 4)
    models = tuple(dataclasses.replace(model, before=nothing, after=nothing) for model in data.models)
    parsed = _Page(render_report(dataclasses.replace(data, models=models)))
    assert "No verdict: this test split holds too few clicks" in parsed.text
    assert "Predicted clicks are nan" not in parsed.text
    assert "nan" not in re.findall(r"[a-z]+", parsed.text)
    rows = {row.name: row for row in comparison_rows(models)}
    for name in ("AUC", "GAUC", "nDCG@10", "Normalized entropy", "Calibration ratio after"):
        assert [cell.text for cell in rows[name].cells] == ["undefined"] * 3
        assert not any(cell.is_best for cell in rows[name].cells)


def test_what_was_not_asked_for_is_left_out(data: ReportData) -> None:
    model = data.headline_model()
    bare = evaluate([0.1, 0.4, 0.2, 0.6], None, [0, 1, 0, 1], [1] * 4, request_C=None)
    data = ReportData(
        title="t", subtitle="s", models=(dataclasses.replace(model, before=bare, after=bare, history=None),),
        headline=model.name,
    )  # fmt: skip
    parsed = _Page(render_report(data))
    assert [attributes["data-figure"] for tag, attributes in parsed.elements if tag == "svg"] == ["reliability"]
    for words in ("GAUC\n", "simulated", "One request, ranked", "How training went", "Right for everyone", "–"):
        assert words not in parsed.text


def test_refuses_a_headline_that_is_no_model(data: ReportData) -> None:
    with pytest.raises(RecipeError, match=r"found: Deepest; allowed: \['Logistic', 'Deep', 'Wide & Deep'\]"):
        render_report(dataclasses.replace(data, headline="Deepest"))


def test_writes_the_whole_file_or_nothing(data: ReportData, tmp_path: Path) -> None:
    data = ReportData(title="t", subtitle="s", models=data.models, headline=data.headline)
    path = write_report(data, tmp_path / "new" / "report.html")
    assert path.is_absolute()
    assert path.read_text("utf-8") == render_report(data)
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(OSError, match=r"taken\.html"):
        write_report(data, tmp_path / "taken.html")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["new", "taken.html"]


def _judged(evaluation: Evaluation, ratio: float, half: float, ece: float) -> Evaluation:
    """With null mean .001 and 95th percentile .002."""
    interval = Interval(ratio - half, ratio + half, 0.95)
    return dataclasses.replace(
        evaluation, calibration_ratio=ratio, calibration_ratio_interval=interval, ece=ece, debiased_ece=ece - 0.001,
        ece_null=EceNull(0.001, 0.002),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "half", "ece", "finding", "words"),
    [
        (0.998, 0.010, 0.0018, "right", "right, as far as"),
        (0.998, 0.001, 0.0018, "close", "small"),  # the interval does not hold 1
        (1.000, 0.010, 0.0100, "close", "small"),  # more than chance shows
        (1.029, 0.001, 0.0110, "close", "small"),
        (1.031, 0.001, 0.0018, "off", "(over-confident)"),
        (0.969, 0.001, 0.0018, "off", "(under-confident)"),
        (1.000, 0.010, 0.0112, "off", "right on average"),
        (math.nan, math.nan, 0.0018, "undefined", "too few clicks"),
        (1.2, math.nan, 0.0018, "undefined", "too few clicks"),
    ],
)
def test_verdict(data: ReportData, ratio: float, half: float, ece: float, finding: str, words: str) -> None:
    verdict = verdict_of(_judged(data.headline_model().after, ratio, half, ece), actions="clicks")
    assert verdict.finding == finding
    assert words in verdict.headline
    assert "nan" not in " ".join(verdict.evidence)


def test_marks_the_best_as_it_is_shown(data: ReportData) -> None:
    first, second, third = data.models

    def given(model: Any, **numbers: float) -> Any:
        return dataclasses.replace(model, after=dataclasses.replace(model.after, **numbers))

    models = [
        given(first, auc=0.70004, calibration_ratio=0.98, log_loss=0.3),
        given(second, auc=0.70001, calibration_ratio=1.01, log_loss=0.3),
        given(third, auc=0.6, calibration_ratio=1.02, log_loss=0.3),
    ]
    rows = {row.name: [cell.is_best for cell in row.cells] for row in comparison_rows(models)}
    assert rows["AUC"] == [True, True, False]  # equal in four digits
    assert rows["Calibration ratio after"] == [False, True, False]
    assert rows["Log loss"] == [False, False, False]  # nothing to choose


_MEASURE = """
<script>
const found = {width: document.documentElement.scrollWidth, window: innerWidth, figures: {}, outside: [], crossing: []};
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  found.figures[svg.dataset.figure] = [frame.width, frame.height];
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  texts.forEach(([words, box], place) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
      found.outside.push(words);
    for (const [others, other] of texts.slice(place + 1)) {
      const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
      const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
      if (across > 1 && down > 3) found.crossing.push([words, others]);
    }
  });
}
document.body.innerHTML = "<pre id=found></pre>";
document.getElementById("found").textContent = JSON.stringify(found);
</script>
"""  # noqa: E501


def test_opens_in_a_browser_with_every_label_in_its_place(page: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.html"
    path.write_text(page.replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    shown = opened(path.as_uri(), tmp_path / "profile")
    [measured] = re.findall(r'<pre id="found">(.*?)</pre>', shown, flags=re.DOTALL)
    found = json.loads(html.unescape(measured))
    assert found["width"] <= found["window"]  # nothing makes the page scroll sideways
    assert list(found["figures"]) == FIGURES
    assert all(width > 800 and height > 120 for width, height in found["figures"].values())
    assert found["outside"] == []
    assert found["crossing"] == []
