"""Objectives: what a model is asked to predict, one file each.

A collator is called with a batch of cells (and the epoch) and returns the model's inputs with `labels`; the loss is
the model head's business.
"""

from .collation import CellCollator
from .contrastive import ContrastiveCollator
from .generative_expression import GenerativeExpressionCollator
from .masked_expression import MaskedExpressionCollator
from .masked_genes import MaskedGenesCollator
from .masked_samples import MaskedSamplesCollator
from .next_gene import NextGeneCollator
from .read_depth import ReadDepthCollator
from .supervised import SupervisedCollator

PRETRAINING: dict[str, type[CellCollator]] = {
    collator.objective: collator
    for collator in (
        ContrastiveCollator,
        GenerativeExpressionCollator,
        MaskedExpressionCollator,
        MaskedGenesCollator,
        MaskedSamplesCollator,
        NextGeneCollator,
        ReadDepthCollator,
        SupervisedCollator,
    )
}
"""Name of a pre-training objective, as families list it in the registry -> its collator."""
