"""torch's own DistributedDataParallel around classifiers, with the default of training loops."""

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, AutoProcessor

from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES


def train_two_steps(rank: int, folders: list[str], meeting_point: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
    for folder in folders:
        model = AutoModelForSequenceClassification.from_pretrained(folder).train()
        model = DistributedDataParallel(model, find_unused_parameters=False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            # the second step fails where a parameter got no gradient in the first
            model(**batch_of(folder, seed=2 * step + rank)).loss.backward()
            optimizer.step()
    torch.distributed.destroy_process_group()


def batch_of(folder: str, seed: int) -> dict[str, torch.Tensor]:
    processor = AutoProcessor.from_pretrained(folder)
    vocabulary = processor.tokenizer.gene_vocabulary
    genes = [gene for gene in vocabulary if gene not in vocabulary.special_tokens]
    cells = 1 + np.random.default_rng(seed).poisson(2, (6, len(genes)))
    return {**processor(cells, gene_names=genes, return_tensors="pt"), "labels": torch.arange(6) % 3}


@pytest.mark.slow
def test_every_classifier_trains_in_two_processes_without_unused_parameters(tmp_path):
    folders = [str(make_tiny_checkpoint(family, tmp_path / family, task="annotate")) for family in FAMILIES]
    torch.multiprocessing.spawn(train_two_steps, (folders, str(tmp_path / "meeting_point")), nprocs=2)
