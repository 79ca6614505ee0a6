"""Heads of several actions: equal to plain loops, with gates that share, and settings that travel.

Letters: C candidates, flat · A actions · E experts · D width.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rankwell.errors import SchemaError
from rankwell.models.action_heads import (
    ActionHeads,
    ActionHeadSettings,
    MMoE,
    MMoESettings,
    SharedBottom,
    SharedBottomSettings,
    make_action_heads,
)
from rankwell.models.model import ModelSettings

NUM, WIDTH = 7, 6
SETTINGS = [
    SharedBottomSettings(),
    SharedBottomSettings(hidden=(5, 8)),
    SharedBottomSettings(tower=(4,)),
    SharedBottomSettings(hidden=(8,), tower=(5, 3)),
    MMoESettings(num_experts=3, expert_width=8, tower=()),
    MMoESettings(num_experts=1, expert_width=8, tower=(4, 3)),
    MMoESettings(num_experts=5, expert_width=4, tower=(6,)),
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def made(settings: SharedBottomSettings | MMoESettings, num_actions: int, seed: int = 0) -> tuple[ActionHeads, Tensor]:
    """Heads, and what they read, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_action_heads(settings, WIDTH, num_actions).double(), torch.randn(NUM, WIDTH).double()


def one_of(layers: torch.nn.Module, n: int, x_D: Tensor) -> Tensor:
    """Layer n of those that stand side by side, on one candidate."""
    weight, bias = layers.weight[n], layers.bias
    return weight @ x_D + (0 if bias is None else bias.view(len(layers.weight), -1)[n])


def plain(heads: ActionHeads, x_CD: Tensor) -> Tensor:
    """Candidate by candidate, action by action, expert by expert."""
    logits_CA = torch.zeros(len(x_CD), heads.towers.layers[-1].weight.shape[0], dtype=torch.float64)
    for c, a in itertools.product(range(len(x_CD)), range(logits_CA.shape[1])):
        x_D = x_CD[c]
        if isinstance(heads, MMoE):
            experts = [one_of(heads.experts, e, x_D).clamp(min=0) for e in range(len(heads.experts.weight))]
            shares = one_of(heads.gate, a, x_D).exp()
            shares = shares / shares.sum()
            x_D = sum(share * expert for share, expert in zip(shares, experts, strict=True))
        else:
            for layer in heads.bottom:
                if isinstance(layer, torch.nn.Linear):
                    x_D = (layer.weight @ x_D + layer.bias).clamp(min=0)
        for layer in heads.towers.layers[:-1]:
            if not isinstance(layer, torch.nn.ReLU | torch.nn.Dropout):
                x_D = one_of(layer, a, x_D).clamp(min=0)
        logits_CA[c, a] = one_of(heads.towers.layers[-1], a, x_D).squeeze()
    return logits_CA


@every_setting
@pytest.mark.parametrize("num_actions", [1, 4])
def test_equal_to_a_loop_over_experts_and_actions(settings: ActionHeadSettings, num_actions: int) -> None:
    heads, x_CD = made(settings, num_actions)
    logits_CA = heads(x_CD)
    assert logits_CA.shape == (NUM, num_actions)
    torch.testing.assert_close(logits_CA, plain(heads, x_CD), rtol=1e-10, atol=1e-10)
    assert heads(x_CD[:0]).shape == (0, num_actions)


@every_setting
def test_the_gradient_is_that_of_the_loop_and_reaches_everything(settings: ActionHeadSettings) -> None:
    heads, x_CD = made(settings, 3, seed=1)
    weights_CA = torch.randn(NUM, 3).double()
    by_name = dict(heads.named_parameters())
    mine = torch.autograd.grad((heads(x_CD) * weights_CA).sum(), list(by_name.values()))
    loops = torch.autograd.grad((plain(heads, x_CD) * weights_CA).sum(), list(by_name.values()), allow_unused=True)
    for name, gradient, of_loop in zip(by_name, mine, loops, strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if of_loop is None else of_loop)
        if name != "gate.weight" or heads.gate.weight.shape[1] > 1:  # a gate over one expert has nothing to decide
            assert gradient.flatten(1).any(1).all() if gradient.ndim == 3 else gradient.any(), name


def test_gates_share_out_one() -> None:
    heads, x_CD = made(MMoESettings(num_experts=5), 3)
    gates_CAE = heads.gates(100 * x_CD)
    assert gates_CAE.shape == (NUM, 3, 5)
    assert gates_CAE.min() >= 0
    torch.testing.assert_close(gates_CAE.sum(2), torch.ones(NUM, 3).double())
    assert gates_CAE.std(dim=1).max() > 0.1  # each action has a gate of its own
    assert heads(1e4 * x_CD).isfinite().all()


def test_one_expert_is_a_shared_bottom() -> None:
    one, x_CD = made(MMoESettings(num_experts=1, expert_width=8, tower=(4,)), 3)
    bottom, _ = made(SharedBottomSettings(hidden=(8,), tower=(4,)), 3, seed=9)
    assert isinstance(bottom, SharedBottom)
    with torch.no_grad():
        bottom.bottom[0].weight.copy_(one.experts.weight[0])
        bottom.bottom[0].bias.copy_(one.experts.bias)
    bottom.towers.load_state_dict(one.towers.state_dict())
    torch.testing.assert_close(one(x_CD), bottom(x_CD), rtol=1e-12, atol=1e-12)


def test_as_it_stands_it_is_one_linear_layer() -> None:
    heads, x_CD = made(SharedBottomSettings(), 3)
    (weight, bias) = heads.parameters()
    torch.testing.assert_close(heads(x_CD), x_CD @ weight.squeeze(1).T + bias)


def test_actions_and_candidates_do_not_see_each_other() -> None:
    for settings in (SharedBottomSettings(hidden=(8,), tower=(4,)), MMoESettings()):
        heads, x_CD = made(settings, 3)
        before_CA = heads(x_CD)
        torch.testing.assert_close(heads(x_CD[2:4]), before_CA[2:4])
        with torch.no_grad():
            heads.towers.layers[0].weight[1] += 1.0
        changed_A = (heads(x_CD) != before_CA).any(0)
        assert changed_A.tolist() == [False, True, False]


def test_layers_start_as_linear_layers_do() -> None:
    """Uniform within ± 1/√D, each action from numbers of its own."""
    heads = make_action_heads(MMoESettings(num_experts=8, expert_width=64, tower=(64,)), 400, 4)
    weight = heads.experts.weight
    assert weight.abs().max() <= 400**-0.5
    assert weight.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.02)
    assert not torch.equal(weight[0], weight[1])
    biases = [parameter for name, parameter in heads.named_parameters() if name.endswith("bias")]
    assert all(bias.ndim == 1 for bias in biases)  # no weight decay moves them


@pytest.mark.parametrize(
    "settings",
    [SharedBottomSettings(hidden=(64,), tower=(64,), dropout=0.5), MMoESettings(expert_width=64, dropout=0.5)],
    ids=str,
)
def test_dropout_is_of_training_alone(settings: ActionHeadSettings) -> None:
    heads, x_CD = made(settings, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(heads(x_CD), heads(x_CD))
    heads.eval()
    assert torch.equal(heads(x_CD), heads(x_CD))


def test_settings_travel_as_json_inside_a_models_settings() -> None:
    class Mine(ModelSettings):
        heads: ActionHeadSettings = SharedBottomSettings()

    for settings in SETTINGS:
        again = Mine.model_validate_json(Mine(heads=settings).model_dump_json()).heads
        assert again == settings
        assert type(again) is type(settings)
    with pytest.raises(SchemaError, match="mmoe"):
        Mine(heads={"kind": "cross_stitch"})


@pytest.mark.parametrize("wrong", [{"num_experts": 0}, {"expert_width": 0}, {"tower": (0,)}, {"dropout": 1.0}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match=next(iter(wrong))):
        MMoESettings(**wrong)
