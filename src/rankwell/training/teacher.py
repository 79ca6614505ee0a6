"""A finished model that another is taught by: its logits for the candidates of a batch, made anew or looked up.

Letters: R requests · C candidates, flat · A actions · n rows of a table · S state columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import functional

from rankwell.errors import LogError, RecipeError
from rankwell.losses.label_smoothing import check_epsilon, undo_label_smoothing
from rankwell.models.model import Model
from rankwell.tables.table import Table
from rankwell.types import Batch

__all__ = ["MeanTeacher", "ModelTeacher", "RecordedTeacher", "Teacher", "borrow_rows", "mean_log_odds", "record_logits"]


class Teacher(Protocol):
    """Logits to learn from; its `repr` tells it apart from other teachers, and is the same in every process."""

    @property
    def actions(self) -> Sequence[str]:
        """The names of the actions that it has logits of, A."""
        ...

    def logits_CA(self, batch: Batch) -> Tensor:
        """Natural log-odds of the true labels for each candidate of a batch, without a gradient."""
        ...


@final
class ModelTeacher:
    """A model that answers for each batch: in eval mode, without a gradient, and none of its rows moves.

    It costs a pass of the model a step. What it says of a request depends on the batch in the last digits, as any
    model's logits do, and a run that was killed meets the same batches: it ends as one that was not, to the bit.

    Args:
        model: Put into eval mode; not trained, saved or exported with the student.
        label_smoothing: The ε that it was trained with, which is undone.

    Raises:
        RecipeError: ε is outside [0, 1); in `logits_CA`, somebody trains the model.
    """

    def __init__(self, model: Model, *, label_smoothing: float = 0.0) -> None:
        check_epsilon(label_smoothing)
        self.model, self.label_smoothing = model.eval(), label_smoothing

    @property
    def actions(self) -> tuple[str, ...]:
        """Those of the model's schema."""
        return tuple(action.name for action in self.model.schema.actions)

    @torch.no_grad()
    def logits_CA(self, batch: Batch) -> Tensor:
        """See `Teacher`; float32."""
        if self.model.training:
            raise RecipeError(
                "a teacher is being trained", found=f"a {type(self.model).__name__} in training mode",
                allowed="a finished model in eval mode, other than the student", do="train it first, or read a bundle",
            )  # fmt: skip
        return undo_label_smoothing(self.model(batch.features), self.label_smoothing).float()

    def __repr__(self) -> str:
        # by dense weights, settings and numbers of rows: two models that share those are taken for one
        digest = hashlib.sha256(self.model.settings.model_dump_json().encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + _bytes_of(tensor))
        for part, table in sorted(self.model.tables.items()):
            digest.update(f"{part} {table.num_seen}".encode())
        kind = type(self.model).__name__
        return f"ModelTeacher({kind}, {digest.hexdigest()[:16]}, label_smoothing={self.label_smoothing})"


@final
class MeanTeacher:
    """Several teachers as one: its probability is the mean of theirs, as `mean_log_odds` has it.

    Models of one recipe and other seeds err in part apart from each other; what they agree on is worth more.

    Args:
        teachers: Of the same actions in the same order; K ≥ 1.

    Raises:
        RecipeError: There is none, or their actions differ.

    >>> def one(logit: float) -> RecordedTeacher:
    ...     return RecordedTeacher(("click",), torch.tensor([7]), torch.tensor([0, 1]), torch.tensor([4]),
    ...                            torch.tensor([[logit]]))
    >>> MeanTeacher([one(-1.0), one(3.0)]).actions
    ('click',)

    Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network", §2.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        actions = {tuple(teacher.actions) for teacher in teachers}
        if len(actions) != 1:
            raise RecipeError(
                "a mean is of teachers of the same actions", found=sorted(actions), allowed="one list of actions",
                do="give at least one teacher, and those of one schema",
            )  # fmt: skip
        self.teachers, self._actions = tuple(teachers), actions.pop()

    @property
    def actions(self) -> tuple[str, ...]:
        """Those of each."""
        return self._actions

    @torch.no_grad()
    def logits_CA(self, batch: Batch) -> Tensor:
        """See `Teacher`; NaN where one of them has none."""
        return mean_log_odds(torch.stack([teacher.logits_CA(batch) for teacher in self.teachers]))

    def __repr__(self) -> str:
        return f"MeanTeacher({', '.join(map(repr, self.teachers))})"


@final
@dataclass(frozen=True, slots=True, repr=False)
class RecordedTeacher:
    """Logits that are known already, looked up by request.

    For training of several epochs, and of several students: the teacher passes over the log once. Answers are those of
    the record whatever else is in the batch, so where a run was killed changes nothing.

    Args:
        actions: Names, A.
        request_ids_R: int64, ascending, each once.
        offsets: int64 of R + 1; the candidates of request r are ``offsets[r]:offsets[r + 1]``.
        item_ids_C: int64, of the candidates in the log's order.
        record_CA: Natural log-odds of the true labels; NaN where there is none, which is not taught.

    Raises:
        LogError: The columns do not fit each other, or a request is there twice.

    >>> teacher = RecordedTeacher(("click",), torch.tensor([7, 9]), torch.tensor([0, 1, 3]), torch.tensor([4, 4, 5]),
    ...                           torch.tensor([[-1.0], [0.5], [2.0]]))
    >>> teacher.actions
    ('click',)
    """

    actions: tuple[str, ...]
    request_ids_R: Tensor
    offsets: Tensor
    item_ids_C: Tensor
    record_CA: Tensor

    def __post_init__(self) -> None:
        num_requests, num_candidates = len(self.request_ids_R), len(self.item_ids_C)
        fits = (
            len(self.offsets) == num_requests + 1
            and int(self.offsets[-1]) == num_candidates
            and self.record_CA.shape == (num_candidates, len(self.actions))
        )
        if not fits or not bool((self.request_ids_R.diff() > 0).all()):
            raise LogError(
                "a record of a teacher's logits does not fit together",
                found=f"{num_requests} requests, {num_candidates} items, logits of {tuple(self.record_CA.shape)}",
                allowed=f"ascending request ids, each once, and for each candidate {len(self.actions)} logits",
                do="make it by record_logits",
            )

    def logits_CA(self, batch: Batch) -> Tensor:
        """See `Teacher`.

        Raises:
            LogError: A request is not in the record, or has other candidates there.
        """
        features, ids_R = batch.features, batch.audit.request_ids_R
        if not len(ids_R) or not len(self.request_ids_R):
            place_R, known_R = torch.zeros_like(ids_R), torch.zeros_like(ids_R, dtype=torch.bool)
        else:
            place_R = torch.searchsorted(self.request_ids_R, ids_R).clamp(max=len(self.request_ids_R) - 1)
            known_R = self.request_ids_R[place_R] == ids_R
        if not bool(known_R.all()):
            raise _not_recorded(ids_R[~known_R], "is not there")
        same_R = self.offsets.diff()[place_R] == features.offsets.diff()
        if not bool(same_R.all()):
            raise _not_recorded(ids_R[~same_R], "has another number of candidates there")
        shift_R = self.offsets[:-1][place_R] - features.offsets[:-1]
        row_C = torch.arange(features.num_candidates) + shift_R[features.request_C]
        other_C = self.item_ids_C[row_C] != batch.audit.item_ids_C
        if bool(other_C.any()):
            raise _not_recorded(ids_R[torch.unique(features.request_C[other_C])], "has other candidates there")
        return self.record_CA[row_C]

    def __repr__(self) -> str:
        digest = hashlib.sha256()
        for column in (self.request_ids_R, self.item_ids_C, self.record_CA):
            digest.update(_bytes_of(column))
        return f"RecordedTeacher({len(self.request_ids_R)} requests, {digest.hexdigest()[:16]})"


def mean_log_odds(logits_KCA: Tensor) -> Tensor:
    """The log-odds of the mean of K probabilities: log(Σ_k σ(z_k) / Σ_k σ(−z_k)), float32 of C × A.

    The mean of probabilities that are right on average is right on average; that of their logits is not.

    Args:
        logits_KCA: Natural log-odds, K ≥ 1; finite, or NaN, which the mean is then, too.

    >>> mean_log_odds(torch.tensor([0.9, 0.5]).logit().reshape(2, 1, 1)).sigmoid()
    tensor([[0.7000]])
    """
    logits_KCA = logits_KCA.double()
    of_CA = functional.logsigmoid(logits_KCA).logsumexp(0)
    return (of_CA - functional.logsigmoid(-logits_KCA).logsumexp(0)).float()


def record_logits(teacher: Teacher, batches: Iterable[Batch]) -> RecordedTeacher:
    """What a teacher says of whole batches, kept: 4 bytes a candidate and action, and 8 for its item.

    Args:
        teacher: Any.
        batches: Each request once, with all its candidates: not thinned by down-sampling.

    Raises:
        LogError: A request is there twice.
    """
    logits, items, ids, lengths = [], [], [], []
    for batch in batches:
        logits.append(teacher.logits_CA(batch))
        items.append(batch.audit.item_ids_C.clone())
        ids.append(batch.audit.request_ids_R.clone())
        lengths.append(batch.features.offsets.diff())
    if not ids:
        none = torch.zeros(0, dtype=torch.int64)
        return RecordedTeacher(
            tuple(teacher.actions), none, none.new_zeros(1), none, torch.zeros(0, len(teacher.actions))
        )
    length_R, id_R = torch.cat(lengths), torch.cat(ids)
    order_R = id_R.argsort(stable=True)
    start_R = length_R.cumsum(0) - length_R
    ordered_R = length_R[order_R]
    offsets = torch.cat([ordered_R.new_zeros(1), ordered_R.cumsum(0)])
    row_C = torch.arange(int(offsets[-1])) + (start_R[order_R] - offsets[:-1]).repeat_interleave(ordered_R)
    return RecordedTeacher(
        tuple(teacher.actions), id_R[order_R], offsets, torch.cat(items)[row_C], torch.cat(logits)[row_C]
    )


def borrow_rows(student: Model, teacher: Model) -> tuple[str, ...]:
    """Start a fresh student's rows as the teacher's are: those of tables of one part, declaration and width.

    Parts that are linear are left out: their rules begin where weights are 0.

    Args:
        student: Fresh; its rows of these tables are replaced.
        teacher: Finished.

    Returns:
        ``part/table`` of each table whose rows were taken.

    Raises:
        RecipeError: No table of theirs is alike.
    """
    taken = []
    for part, table in student.tables.items():
        other = teacher.tables.get(part)
        if part in student.linear_parts or other is None or other.width != table.width:
            continue
        for name in _alike(table, other):
            for piece in other.chunks(name):
                state_nS = torch.zeros(len(piece), 0 if table.rule is None else table.rule.state_width(table.width))
                table.insert(name, replace(piece, state_nS=state_nS, last_n=torch.zeros_like(piece.last_n)))
            taken.append(f"{part}/{name}")
    if not taken:
        raise RecipeError(
            "a student cannot start from this teacher's rows",
            found={part: (table.width, table.names) for part, table in teacher.tables.items()},
            allowed={part: (table.width, table.names) for part, table in student.tables.items()},
            do="give both one row width and one schema, or start without",
        )
    return tuple(taken)


def _alike(table: Table, other: Table) -> list[str]:
    specs = {spec.name: spec for spec in other.specs}
    return [spec.name for spec in table.specs if specs.get(spec.name) == spec]


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


def _not_recorded(ids: Tensor, how: str) -> LogError:
    return LogError(
        f"request {int(ids[0])} {how}, in the record of the teacher's logits", found=f"{len(ids)} such requests",
        do="record all requests of train, of the same log, with all their candidates (no DropNegatives)",
    )  # fmt: skip
