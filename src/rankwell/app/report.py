"""The report: one page, in one file, for someone who has not read the docs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final, final

from jinja2 import Environment, StrictUndefined

from rankwell.app import number_format
from rankwell.app.comparison import ModelResult, comparison_rows
from rankwell.app.figures import MOST_SEGMENTS, reliability_figure, segment_figure, stage_figure, training_figure
from rankwell.app.verdict import LARGEST_ECE, RATIO_BOUNDS, verdict_of
from rankwell.errors import RecipeError
from rankwell.evaluation.report import Evaluation

__all__ = ["ExampleCandidate", "ExampleRequest", "ModelResult", "ReportData", "render_report", "write_report"]

_TEMPLATE: Final = "report.html.jinja"


@final
@dataclass(frozen=True, slots=True)
class ExampleCandidate:
    """One line of a ranked list.

    Args:
        item_id: The item.
        title: What it is, as a reader knows it.
        probability: Calibrated, in (0, 1).
        true_probability: What a simulator knows; None elsewhere.
        bid_micros: What is bid on it; None where nothing is.
        happened: Whether the action followed; None where it was not shown or nobody knows.
    """

    item_id: int
    title: str
    probability: float
    true_probability: float | None = None
    bid_micros: int | None = None
    happened: bool | None = None

    @property
    def evc_micros(self) -> int | None:
        """bid × probability, rounded to a micro; None without a bid."""
        return None if self.bid_micros is None else round(self.bid_micros * self.probability)


@final
@dataclass(frozen=True, slots=True)
class ExampleRequest:
    """One request and its candidates, best first.

    Args:
        asked: Who asked and for what, in a sentence.
        candidates: Best first; a report shows them all, so pass as many as are to be seen.
        num_candidates: How many were ranked in all.
        sorted_by: What the list is sorted by, as "p(click)".
    """

    asked: str
    candidates: tuple[ExampleCandidate, ...]
    num_candidates: int
    sorted_by: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that a report shows.

    Args:
        title: Of the page.
        subtitle: What was trained on what, in a sentence or two.
        models: Evaluated on the same rows of the test split; in the order of the comparison.
        headline: The name of the model that verdict, reliability curve and segments are about.
        actions: What is predicted, in the plural.
        by_action: The headline model's calibrated probabilities of every action, by its name; shown where there are
            two or more.
        stage_seconds: Stage to its wall time, in the order they ran.
        example: A ranked list; None where there is none to show.
        provenance: Versions, seeds, sizes, settings: name to text.
        segment_names: Segment column to what its values are called.
        notes: Said under the subtitle, such as how the data differs from a published set.
    """

    title: str
    subtitle: str
    models: tuple[ModelResult, ...]
    headline: str
    actions: str = "clicks"
    by_action: Mapping[str, Evaluation] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    example: ExampleRequest | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    segment_names: Mapping[str, Mapping[int | str | bool, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def headline_model(self) -> ModelResult:
        """The model that the report is about.

        Raises:
            RecipeError: No model has that name.
        """
        for model in self.models:
            if model.name == self.headline:
                return model
        raise RecipeError(
            "the report's headline names no model",
            found=self.headline,
            allowed=[model.name for model in self.models],
            do="name one of the models",
        )


def render_report(data: ReportData) -> str:
    """The page as text: HTML with its styles and figures inside, without scripts and without any address.

    Equal data gives equal text. All text in the data is escaped.

    Args:
        data: What to show.

    Returns:
        A whole HTML document.

    Raises:
        RecipeError: `data.headline` names no model.
    """
    model = data.headline_model()
    before, after = model.before, model.after
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["shown"] = number_format
    template = environment.from_string(resources.files("rankwell.app").joinpath(_TEMPLATE).read_text("utf-8"))
    # The headline first: the first line of a figure has the colour that the headline has everywhere else.
    histories = {m.name: m.history for m in sorted(data.models, key=lambda m: m.name != data.headline) if m.history}
    return template.render(
        data=data,
        model=model,
        before=before,
        after=after,
        verdict=verdict_of(after, actions=data.actions),
        verdict_before=verdict_of(before, actions=data.actions),
        rows=comparison_rows(data.models),
        reliability=reliability_figure(before.reliability, after.reliability, actions=data.actions),
        segments=segment_figure(before.segments, after.segments, names=data.segment_names),
        num_hidden={
            column: len(rows) - MOST_SEGMENTS for column, rows in after.segments.items() if len(rows) > MOST_SEGMENTS
        },
        training=training_figure(histories),
        stages=stage_figure(data.stage_seconds),
        ratio_bounds=RATIO_BOUNDS,
        largest_ece=LARGEST_ECE,
    )


def write_report(data: ReportData, path: Path) -> Path:
    """Write the page to one file that needs no other; an older one stays whole until the new one is.

    Args:
        data: What to show.
        path: Of the file, as ``report.html``; its folder is made.

    Returns:
        The absolute path.

    Raises:
        RecipeError: `data.headline` names no model.
        OSError: The file cannot be written; nothing half-written stays.
    """
    text = render_report(data)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path
