"""A deployment answers as PyTorch does, from files alone, and is refused where it would not.

Letters in names: C candidates of the request · A actions.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serving_example as example
import torch

from rankwell.data.replay import request_of_batch
from rankwell.errors import BundleError, RequestError, SchemaError
from rankwell.serving.bundle import read_bundle, write_bundle
from rankwell.serving.changed_rows import RowChange
from rankwell.serving.correction import CorrectedScorer, Correction
from rankwell.serving.deployment import Deployment, read_deployment, write_deployment
from rankwell.serving.example_request import example_request
from rankwell.serving.graph_scorer import GraphScorer
from rankwell.serving.ranker import Ranker
from rankwell.serving.request_graph import request_graph
from rankwell.serving.scorer import EagerScorer
from rankwell.tables.hashing import mix64_each, name_salt

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BUNDLE = example.example_bundle(label_smoothing=0.1)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return request_graph(BUNDLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployments") / "one"
    write_deployment(BUNDLE, folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder: Path) -> GraphScorer:
    return read_deployment(folder).scorer()


def test_it_answers_as_pytorch_does(scorer: GraphScorer) -> None:
    eager = EagerScorer(BUNDLE)
    for num_candidates, num_events in ((1, 0), (1, 1), (7, 3), (500, 50), (2000, 2)):
        batch = example_request(
            example.SCHEMA, example.STATISTICS, num_candidates=num_candidates, num_events=num_events, seed=num_events
        )  # fmt: skip
        found, expected = scorer.score(batch), eager.score(batch)
        torch.testing.assert_close(found.logits_CA, expected.logits_CA, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.probabilities_CA, expected.probabilities_CA, atol=1e-5, rtol=0)


def test_a_ranker_takes_it_in_the_place_of_a_bundle(scorer: GraphScorer) -> None:
    batch = example_request(example.SCHEMA, example.STATISTICS, num_candidates=40, num_events=3, seed=1)
    plain = request_of_batch(batch, 0, example.SCHEMA)
    found, expected = Ranker(scorer).rank(plain, length=10), Ranker(BUNDLE).rank(plain, length=10)
    assert found.ranked.item_ids.tolist() == expected.ranked.item_ids.tolist()
    torch.testing.assert_close(found.ranked.probabilities, expected.ranked.probabilities, atol=1e-5, rtol=0)
    assert scorer.provider == "CPUExecutionProvider"


def test_many_threads_may_ask(scorer: GraphScorer) -> None:
    batches = [
        example_request(example.SCHEMA, example.STATISTICS, num_candidates=20 + k, num_events=k, seed=k)
        for k in range(8)
    ]  # fmt: skip
    expected = [scorer.score(batch).probabilities_CA for batch in batches]
    wrong: list[int] = []

    def ask(k: int) -> None:
        wrong.extend(k for _ in range(20) if not torch.equal(scorer.score(batches[k]).probabilities_CA, expected[k]))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_leaves_arithmetic_as_it_was(scorer: GraphScorer) -> None:
    scorer.score(example_request(example.SCHEMA, example.STATISTICS, num_candidates=5, num_events=1, seed=0))
    assert float(np.float32(1e-39) * np.float32(2.0)) > 0, "subnormal numbers are taken for 0 in the whole process"
    assert float(torch.tensor(1e-39) * 2.0) > 0


def test_a_graph_scores_one_request_at_a_time(scorer: GraphScorer) -> None:
    with pytest.raises(RequestError, match="one by one"):
        scorer.score(example.batch(num_requests=2, seed=0))


def test_int8_rows_pass_a_self_test_of_their_own(tmp_path: Path, graph: bytes) -> None:
    requests = [example_request(example.SCHEMA, example.STATISTICS, num_candidates=30, num_events=2, seed=9)]
    write_deployment(BUNDLE, tmp_path / "int8", precision="int8", graph=graph, requests=requests)
    deployment = read_deployment(tmp_path / "int8")
    deployment.test(deployment.scorer())
    written = json.loads((tmp_path / "int8" / "self_test.json").read_text())
    assert len(written["cases"]) == 4
    assert 1e-5 <= written["tolerance"] < 0.1


def test_a_graph_that_gives_other_numbers_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: bytes
) -> None:
    monkeypatch.setattr("rankwell.serving.deployment.request_graph", lambda bundle: graph)
    with pytest.raises(BundleError, match="other numbers than PyTorch"):
        write_deployment(replace(BUNDLE, label_smoothing=0.0), tmp_path / "other")
    assert not list(tmp_path.iterdir())


def test_a_failing_self_test_is_said(folder: Path, scorer: GraphScorer) -> None:
    deployment = read_deployment(folder)
    deployment.test(scorer)
    other = EagerScorer(replace(BUNDLE, label_smoothing=0.0))
    with pytest.raises(BundleError, match=r"fails its self-test; found: request \d+: probabilities up to"):
        deployment.test(other)


def test_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("graph.onnx", "rows/deep/job.rows", "self_test.json", "schema.json"):
        copy = tmp_path / name.replace("/", "_")
        copy.mkdir()
        for path in folder.rglob("*"):
            if path.is_file():
                to = copy / path.relative_to(folder)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(path.read_bytes())
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(bytes(content))
        with pytest.raises(BundleError, match="damaged"):
            read_deployment(copy)


def test_bundles_and_deployments_are_told_apart(folder: Path, tmp_path: Path) -> None:
    write_bundle(BUNDLE, tmp_path / "bundle")
    with pytest.raises(BundleError, match="export the bundle first"):
        read_deployment(tmp_path / "bundle")
    with pytest.raises(BundleError, match="not that of a bundle"):
        read_bundle(folder)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="is taken"):
        write_deployment(BUNDLE, tmp_path / "taken")


def test_rows_are_read_from_the_files(folder: Path) -> None:
    deployment = read_deployment(folder)
    assert isinstance(deployment, Deployment)
    assert min(deployment.table_bytes.values()) > 0
    assert deployment.created_us == BUNDLE.created_us
    assert len(deployment.id) == 16
    assert deployment.id == read_deployment(folder).id


def test_what_is_added_to_wide_rows_is_added_to_logits(scorer: GraphScorer) -> None:
    batch = example_request(example.SCHEMA, example.STATISTICS, num_candidates=40, num_events=0, seed=2)
    job_C, title_C = batch.features.candidates["job"], batch.features.candidates["title"]
    assert isinstance(job_C, torch.Tensor)
    assert isinstance(title_C, torch.Tensor)
    spec = example.SCHEMA.table_specs()["job"]
    key = int(mix64_each(np.array([int(job_C[3])], np.uint64) ^ np.uint64(name_salt("job")))[0] % np.uint64(spec.size))
    changes = {
        "wide": {
            "job": RowChange(np.array([key]), np.array([[0.25, -1.0]], np.float32)),
            "title": RowChange(np.array([5, 19]), np.array([[0.0, 0.5], [2.0, 0.0]], np.float32)),
        }
    }
    before_CA = scorer.score(batch).logits_CA
    changed = scorer.with_changes(changes)
    added_CA = torch.zeros_like(before_CA)
    added_CA[3] += torch.tensor([0.25, -1.0])
    added_CA[title_C == 5] += torch.tensor([0.0, 0.5])
    added_CA[title_C == 19] += torch.tensor([2.0, 0.0])
    torch.testing.assert_close(changed.score(batch).logits_CA, before_CA + added_CA, atol=1e-5, rtol=0)
    assert torch.equal(scorer.score(batch).logits_CA, before_CA)
    for wrong, message in (
        ({"deep": {}}, "add to the logits"),
        ({"wide": {"place": changes["wide"]["job"]}}, "do not fit"),
    ):
        with pytest.raises(SchemaError, match=message):
            scorer.with_changes(wrong)
    with pytest.raises(SchemaError, match="ascending"):
        RowChange(np.array([5, 5]), np.zeros((2, 2), np.float32))


def test_a_correction_changes_wide_rows_within_bounds(scorer: GraphScorer) -> None:
    batch = example_request(example.SCHEMA, example.STATISTICS, num_candidates=40, num_events=0, seed=2)
    title_C = batch.features.candidates["title"]
    assert isinstance(title_C, torch.Tensor)

    def correction(**parts: object) -> Correction:
        return Correction(id="c", created_us=0, expires_us=9, reason="warm", bundle_id="b", **parts)  # type: ignore[arg-type]

    warm = correction(wide_changes={"wide": {"title": {"5": (0.5, 0.0), "2": (-1.0, 0.25)}}})
    corrected = CorrectedScorer(scorer, warm)
    plain, found = scorer.score(batch), corrected.score(batch)
    added_C = 0.5 * (title_C == 5) - 1.0 * (title_C == 2)
    torch.testing.assert_close(found.logits_CA[:, 0], plain.logits_CA[:, 0] + added_C, atol=1e-5, rtol=0)
    assert (found.probabilities_CA[title_C == 5, 0] > plain.probabilities_CA[title_C == 5, 0]).all()
    with pytest.raises(SchemaError, match="less than or equal to 1"):
        correction(wide_changes={"wide": {"title": {"5": (1.5, 0.0)}}})
    with pytest.raises(SchemaError, match="rows of no bundle"):
        Correction(id="c", created_us=0, expires_us=9, reason="r", wide_changes={"wide": {}})
    with pytest.raises(SchemaError, match="one weight an action"):
        CorrectedScorer(scorer, correction(wide_changes={"wide": {"title": {"5": (0.5,)}}}))
    with pytest.raises(SchemaError, match="served in PyTorch"):
        CorrectedScorer(EagerScorer(BUNDLE), warm)
