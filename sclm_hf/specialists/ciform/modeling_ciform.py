"""CIForm: a transformer over patches of genes that names the types of cells.

Xu, Zhang, Liu, Zhang, Zheng, Zhang. CIForm as a Transformer-based model for cell-type annotation of large-scale
single-cell RNA-seq data. Briefings in Bioinformatics 24, bbad195 (2023). doi:10.1093/bib/bbad195
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import auto_docstring, can_return_tuple

from sclm_hf.modeling.common.inputs import check_expression
from sclm_hf.modeling.common.losses import classification_loss
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput
from sclm_hf.modeling.common.patch_encoder import PatchEncoder, PatchPreTrainedModel

from .configuration_ciform import CIFormConfig


@auto_docstring
class CIFormPreTrainedModel(PatchPreTrainedModel):
    config: CIFormConfig
    main_input_name = "expression_values"


@auto_docstring(custom_intro="The encoder: expression in, one vector per patch and per cell out.")
class CIFormModel(CIFormPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^dense\.", r"^classifier\."]

    def __init__(self, config: CIFormConfig):
        super().__init__(config)
        self.encoder = PatchEncoder(config)
        self.post_init()

    def patches(self, expression_values: Tensor) -> Tensor:
        """Cut cells into patches.

        Args:
            expression_values: (cells, genes) log-normalised expression.

        Returns:
            (cells, patches, patch_size).
        """
        size, n_genes = self.config.patch_size, expression_values.shape[1]
        if n_genes % size and not self.config.overlap_last:
            expression_values = F.pad(expression_values, (0, -n_genes % size))
            n_genes = expression_values.shape[1]
        starts = [min(start, n_genes - size) for start in range(0, n_genes, size)]
        cut = torch.stack([expression_values[:, start : start + size] for start in starts], dim=1)
        if not self.config.scale_patches:
            return cut
        centred = cut - cut.mean(dim=2, keepdim=True)
        deviation = centred.square().mean(dim=2, keepdim=True).sqrt()
        # a patch without differences stays at 0
        return centred / deviation.masked_fill(deviation < 10 * torch.finfo(cut.dtype).eps, 1.0)

    @can_return_tuple
    @auto_docstring
    def forward(self, expression_values: torch.FloatTensor, **kwargs) -> CellModelOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        """
        check_expression(expression_values, self.config.num_genes, least=self.config.patch_size)
        patches = self.patches(expression_values.to(self.dtype))
        hidden_states = self.encoder(patches)
        return CellModelOutput(last_hidden_state=hidden_states, cell_embedding=hidden_states.mean(dim=1))


@auto_docstring(custom_intro="CIForm with its classifier of cells.")
class CIFormForSequenceClassification(CIFormPreTrainedModel):
    def __init__(self, config: CIFormConfig):
        super().__init__(config)
        self.model = CIFormModel(config)
        self.dense = nn.Linear(config.patch_size, config.patch_size)
        self.classifier = nn.Linear(config.patch_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, expression_values: torch.FloatTensor, labels: Tensor | None = None, **kwargs
    ) -> CellClassifierOutput:
        r"""
        expression_values (`torch.FloatTensor` of shape `(batch, genes)`):
            Log-normalised expression of the genes of the processor, in its order.
        labels (`torch.Tensor` of shape `(batch,)`, *optional*):
            Numbers of the types.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(expression_values, **kwargs)
        logits = self.classifier(F.relu(self.dense(encoded.cell_embedding)))
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
        )


__all__ = ["CIFormForSequenceClassification", "CIFormModel", "CIFormPreTrainedModel"]
