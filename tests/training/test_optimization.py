import math

import pytest
import torch

from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.optimization import create_optimizer, create_schedule


def learning_rates(total_steps, **settings):
    """The learning rate of every step."""
    config = TrainingConfig(learning_rate=0.1, **settings)
    optimizer = create_optimizer(torch.nn.Linear(2, 2), config)
    schedule = create_schedule(optimizer, config, total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup_steps", [10, 0.25])
def test_linear_warm_up_then_half_a_cosine(warmup_steps):
    rates = learning_rates(40, warmup_steps=warmup_steps)
    assert rates[:11] == pytest.approx([0.01 * step for step in range(11)])
    assert rates[10:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 30)) for step in range(30)])


def test_other_schedules_after_the_warm_up():
    assert learning_rates(8, warmup_steps=0, lr_scheduler_type="constant") == pytest.approx([0.1] * 8)
    rates = learning_rates(8, warmup_steps=4, lr_scheduler_type="linear")
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.075, 0.05, 0.025])


def test_only_matrices_decay():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    model[0].bias.requires_grad_(False)
    decay, none = create_optimizer(model, TrainingConfig(weight_decay=0.1).completed()).param_groups
    assert (decay["weight_decay"], none["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in decay["params"]] == [(3, 2)] and [p.shape for p in none["params"]] == [(3,), (3,)]
