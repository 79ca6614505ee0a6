"""The loop, end to end: serve, log, act, compact, join, train; and labels that were counted by hand.

K candidates of a request · C candidates, flat · A actions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import served_log_example as example
import torch
from test_serving_served_log import SMALL, small_answer
from test_serving_served_log import log_in as served_log_in

from rankwell.data.batches import Batches
from rankwell.data.log import RequestLog, open_log
from rankwell.data.split import WholeLog
from rankwell.data.statistics import measure_numerics
from rankwell.errors import LogError
from rankwell.models.wide_deep import Logistic
from rankwell.serving.action_log import ActionLog, ReportedAction, compact_actions
from rankwell.serving.log_compaction import compact_served
from rankwell.serving.served_training import label_served
from rankwell.tables.adagrad import RowWiseAdaGrad
from rankwell.training.dense_optimizers import DenseAdamW
from rankwell.training.loop import LoopSettings, fit
from rankwell.training.objectives import PointwiseObjective
from rankwell.training.optimizers import OptimizerPlan
from rankwell.types import Batch

SECOND_US = 1_000_000


def act(folder: Path, actions: list[ReportedAction], *, schema: Any, **changes: Any) -> None:
    with ActionLog(folder, schema, **({"worker": "w0", "now_us": lambda: 0} | changes)) as log:
        log.append(actions)


def labels_by_request(folder: Path) -> dict[int, dict[str, Any]]:
    rows = [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]
    return {row["request_id"]: row for row in rows}


def test_labels_by_hand(tmp_path: Path) -> None:
    """Three answers at 0, 100 and 200 s show items 6, then 4; the window of a click is 60 s; now is 230 s."""
    with served_log_in(tmp_path, schema=SMALL, all_candidates_rate=1.0) as log:
        for number in range(3):
            log.append(small_answer(request_id=number, time_us=number * 100 * SECOND_US))

    def click(request_id: int, item_id: int, after_s: float) -> ReportedAction:
        return ReportedAction(request_id, item_id, "click", round((request_id * 100 + after_s) * SECOND_US))

    # out of order; late; before its impression; of a candidate that was not shown; of no request; twice, at two workers
    actions = [
        click(2, 4, 5), click(0, 6, 59), click(0, 4, 61), click(1, 6, -1), click(1, 5, 1), click(9, 6, -899),
        click(1, 77, 1),
    ]  # fmt: skip
    act(tmp_path, actions, schema=SMALL)
    act(tmp_path, [click(0, 6, 59)], schema=SMALL, worker="w1")
    compact_served(tmp_path)
    compact_actions(tmp_path)
    # parts of the log are labelled one by one, and their counts are those of all
    with served_log_in(tmp_path, schema=SMALL, all_candidates_rate=1.0) as log:
        log.append(small_answer(request_id=50, time_us=0))
    compact_served(tmp_path)
    report = label_served(tmp_path, tmp_path / "train", now_us=230 * SECOND_US)
    assert report.num_actions == 7
    assert (report.num_joined, report.num_late, report.num_early, report.num_unshown) == (2, 1, 1, 1)
    assert (report.num_unknown_item, report.num_unknown_request, report.num_duplicates) == (1, 1, 0)
    rows = labels_by_request(tmp_path / "train")
    assert [rows[n]["job"] for n in range(3)] == [[6, 4, 5, 2**62]] * 3
    assert rows[0]["click"] == [1, 0, None, None]
    assert rows[1]["click"] == [0, 0, None, None]
    assert rows[2]["click"] == [None, 1, None, None]  # the window of item 6 is open
    assert rows[2]["click_observed"] == [False, True, False, False]
    assert rows[50]["click"] == [0, 0, None, None]
    assert rows[0]["served_bundle_id"] == "b"
    # run again later, with what came meanwhile
    act(tmp_path, [click(2, 6, 10)], schema=SMALL)
    compact_actions(tmp_path)
    label_served(tmp_path, tmp_path / "train", now_us=300 * SECOND_US)
    assert labels_by_request(tmp_path / "train")[2]["click"] == [1, 1, None, None]


def test_nothing_compacted_is_said(tmp_path: Path) -> None:
    served_log_in(tmp_path, schema=SMALL).close()
    with pytest.raises(LogError, match="compacted yet"):
        label_served(tmp_path, tmp_path / "train", now_us=0)


def test_without_actions_all_that_is_known_is_0(tmp_path: Path) -> None:
    with served_log_in(tmp_path, schema=SMALL) as log:
        log.append(small_answer(time_us=0))
    compact_served(tmp_path)
    label_served(tmp_path, tmp_path / "train", now_us=60 * SECOND_US)
    assert labels_by_request(tmp_path / "train")[7]["click"] == [0, 0]


def test_a_marketplace_serves_and_learns(tmp_path: Path) -> None:
    batches = example.distinct_batches(30)
    rng = np.random.default_rng(0)
    actions, clicked = [], set()
    with served_log_in(tmp_path, all_candidates_rate=0.3, server="s") as log:
        for number, batch in enumerate(batches):
            answer = example.served(batch)
            assert log.append(answer)
            for place in torch.as_tensor(answer.places_n).tolist():
                if rng.random() < 0.4:
                    item = int(answer.item_ids_K[place])
                    clicked.add((answer.request_id, item))
                    actions.append(ReportedAction(answer.request_id, item, "click", answer.time_us + 30 * SECOND_US))
            if number % 10 == 9:
                log.append(example.served(batch))  # asked again
    rng.shuffle(actions)  # type: ignore[arg-type]
    act(tmp_path, actions + actions[:5], schema=example.SCHEMA)
    compact_served(tmp_path)
    compact_actions(tmp_path)
    now_us = max(int(batch.audit.times_us_R[0]) for batch in batches) + 8 * 86_400 * SECOND_US
    report = label_served(tmp_path, tmp_path / "train", now_us=now_us)
    assert report.num_joined == len(clicked)

    log = open_log(tmp_path / "train", example.SCHEMA)
    assert log.num_requests == 30
    ((_, whole),) = Batches(log, WholeLog("train"), "train", num_requests=100, seed=None).epoch(0)
    assert isinstance(whole, Batch)
    shown_C = whole.targets.position_C > 0
    assert int(shown_C.sum()) == sum(len(example.served(batch).places_n) for batch in batches)
    assert int((~shown_C).sum()) > 10
    assert torch.equal(whole.targets.observed_CA, shown_C[:, None].expand(-1, len(example.SCHEMA.actions)))
    requests_C = whole.audit.request_ids_R[whole.features.request_C]
    found = set(zip(requests_C.tolist(), whole.audit.item_ids_C.tolist(), strict=True))
    label_C = whole.targets.labels_CA[:, 0]
    positive = {pair for pair, label in zip(
        zip(requests_C.tolist(), whole.audit.item_ids_C.tolist(), strict=True), label_C.tolist(), strict=True
    ) if label == 1}  # fmt: skip
    assert positive == clicked
    assert clicked <= found
    assert int((label_C == 0).sum()) == int(shown_C.sum()) - len(clicked)
    _learns_of_what_was_shown(log, whole)


def _learns_of_what_was_shown(log: RequestLog, whole: Batch) -> None:
    """What was not shown is no negative: the loss is that without it."""
    model = Logistic(example.SCHEMA, measure_numerics([whole], example.SCHEMA), seed=0).eval()
    objective = PointwiseObjective(example.SCHEMA)
    encoded = model.encode(whole.features)
    loss, count = objective(encoded, model.head(encoded), whole)
    shown_C = whole.targets.position_C > 0
    without = replace(whole.targets, weights_C=shown_C.float())
    same, same_count = objective(encoded, model.head(encoded), replace(whole, targets=without))
    assert float(count) == float(same_count) == int(shown_C.sum())
    assert torch.equal(loss, same)

    train = Batches(log, WholeLog("train"), "train", num_requests=10, seed=0)
    tune = Batches(log, WholeLog("train"), "train", num_requests=100, seed=None)
    plan = OptimizerPlan(dense=DenseAdamW(), default_rows=RowWiseAdaGrad())
    history = fit(model, objective, plan, train, tune, LoopSettings(max_epochs=2), seed=0)
    after, _ = objective(encoded, model.head(model.encode(whole.features)), whole)
    assert after < loss
    assert history.best_epoch >= 0
