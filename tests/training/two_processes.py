"""Trains a few steps; launched by `test_two_processes_equal_one`."""

import json
import sys

from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train
from tests.training.training_cells import CLS, PAD, CellsInMemory, masked_model


def main(output_dir: str, batch_size: int, accumulation: int) -> None:
    config = TrainingConfig(
        output_dir=output_dir,
        # 26 cells: the last round of an epoch leaves a process without a batch
        num_train_epochs=4,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        adam_epsilon=1e-3,
        logging_steps=1,
        save_steps=3,
        use_cpu=True,
        ddp_find_unused_parameters=True,
    )
    collator = MaskedExpressionCollator(
        pad_token_id=PAD, special_token_ids=(CLS, PAD), mask_ratio=(0.2, 0.6), ratio_per="cell"
    )
    result = train(
        masked_model(hidden_dropout_prob=0.0),
        CellsInMemory(26),
        collator,
        config,
        eval_corpus=CellsInMemory(7, seed=1),
    )
    print(json.dumps([result.step, result.metrics]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
