"""The optimizer and its schedule."""

import torch
from torch import nn
from transformers import get_scheduler

from .arguments import TrainingConfig


def create_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters; with AdamW biases, norms and other vectors get no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        settings = {"lr": config.learning_rate, "momentum": config.adam_beta1, "weight_decay": config.weight_decay}
        return torch.optim.SGD(trainable, **settings)
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adam":
        settings = {"lr": config.learning_rate, "betas": betas, "eps": config.adam_epsilon}
        return torch.optim.Adam(trainable, weight_decay=config.weight_decay, **settings)
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=betas,
        eps=config.adam_epsilon,
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then the schedule that `config.lr_scheduler_type` names, over `total_steps`."""
    warmup = config.warmup_steps * total_steps if config.warmup_steps < 1 else config.warmup_steps
    return get_scheduler(
        config.lr_scheduler_type, optimizer, num_warmup_steps=int(warmup), num_training_steps=total_steps
    )
