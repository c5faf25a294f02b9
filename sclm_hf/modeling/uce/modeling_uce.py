"""UCE (Rosen et al., bioRxiv 2023, doi:10.1101/2023.11.28.568918).

A cell is a sentence: genes drawn by their expression, put in order chromosome by chromosome. A token is the embedding
of the gene's protein by a protein language model, so that genes of any species are tokens. The table of these
embeddings is frozen and not among the weights: it lies in a file of its own, mapped into memory, and only the rows of
a batch are read.
"""

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring, cached_file, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.common.attention import eager_attention_forward
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.initialization import draw_linear
from sclm_hf.modeling.common.inputs import check_cells, check_ids, exactly_one, refuse_keywords
from sclm_hf.modeling.common.losses import IGNORE, check_targets, classification_loss, mean_over_targets
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, last_queries
from sclm_hf.modeling.common.probe import head_size, with_common_heads

from .configuration_uce import UCEConfig

PROTEIN_FILE = "protein_embeddings.safetensors"
_ROWS = "weight"
_RANDOM_TABLE_SEED = 23
_HUB_SETTINGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class UCEProteinTable:
    """The protein embeddings `(proteins, size)` float32, frozen: copies of a model share them.

    Args:
        rows: the table, in memory or mapped into it.
        path: the file that it is mapped from.
    """

    def __init__(self, rows: Tensor, path: Path | None = None):
        self.rows = rows
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "UCEProteinTable":
        """Map a file into memory; nothing of it is read yet.

        Raises:
            CheckpointError: it is no such table.
        """
        try:
            with safe_open(path, framework="pt") as file:
                rows = file.get_tensor(_ROWS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"`{path}` cannot be read as a protein table ({error}): download it again."
            ) from error
        return cls(rows, path)

    def save(self, folder: Path) -> None:
        """Write the table to `folder`; a table that is mapped from there already stays as it is."""
        target = folder / PROTEIN_FILE
        if self.path is not None and target.exists() and target.samefile(self.path):
            return
        # another model may have the old file mapped
        written = target.with_suffix(".incomplete")
        try:
            if self.path is None:
                save_file({_ROWS: self.rows.contiguous()}, written)
            else:
                shutil.copyfile(self.path, written)
            written.replace(target)
        finally:
            written.unlink(missing_ok=True)

    def __deepcopy__(self, memo: dict) -> "UCEProteinTable":
        return self


class UCEProteins(nn.Module):
    """Looks up protein embeddings; no parameters, so that nothing trains or saves them."""

    def __init__(self, config: UCEConfig):
        super().__init__()
        self.num_embeddings = config.vocab_size
        self.embedding_dim = config.protein_embedding_size
        self.table: UCEProteinTable | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of `ids`, of the shape of `ids` and one more of `protein_embedding_size`, float32."""
        return F.embedding(ids.to("cpu"), self.the_table().rows).to(ids.device)

    def the_table(self) -> UCEProteinTable:
        """The table; a model that was made from a configuration has random proteins, the same every time."""
        if self.table is None:
            generator = torch.Generator().manual_seed(_RANDOM_TABLE_SEED)
            size = self.num_embeddings, self.embedding_dim
            rows = torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)
            self.table = UCEProteinTable(rows)
        return self.table

    def set_table(self, table: UCEProteinTable) -> None:
        shape, dtype = tuple(table.rows.shape), table.rows.dtype
        if shape != (self.num_embeddings, self.embedding_dim) or dtype != torch.float32:
            raise CheckpointError(
                f"`{table.path or 'the protein table'}` holds {shape} numbers ({dtype}); the configuration says "
                f"({self.num_embeddings}, {self.embedding_dim}) of float32. Use the file saved with this model."
            )
        self.table = table


class UCEProteinProjection(nn.Module):
    """Protein embeddings become tokens: linear, GELU, LayerNorm."""

    def __init__(self, config: UCEConfig):
        super().__init__()
        self.linear = nn.Linear(config.protein_embedding_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, proteins: Tensor) -> Tensor:
        # quantised weights have a type that nothing is computed in
        return self.norm(F.gelu(self.linear(proteins.to(self.norm.weight.dtype))))


class UCEPositions(nn.Module):
    """Adds sines and cosines of the position to tokens."""

    def __init__(self, config: UCEConfig):
        super().__init__()
        self.register_buffer("table", torch.empty(config.max_position_embeddings, config.hidden_size))

    @staticmethod
    def values(count: int, size: int) -> Tensor:
        """`(count, size)`: even columns sines, odd ones cosines, wavelengths from 2π to 10,000 · 2π."""
        # whatever type a model is made in
        numbers = {"dtype": torch.float32}
        frequencies = torch.exp(torch.arange(0, size, 2) * (-torch.log(torch.tensor(10000.0, **numbers)) / size))
        angles = torch.arange(count).unsqueeze(1) * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table[: tokens.shape[1]].to(tokens.dtype)


class UCEEmbeddings(nn.Module):
    """Token ids become the encoder's input."""

    def __init__(self, config: UCEConfig):
        super().__init__()
        self.scale = config.hidden_size**0.5
        self.genes = UCEProteins(config)
        self.projection = UCEProteinProjection(config)
        self.positions = UCEPositions(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def embed_genes(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> Tensor:
        """Projected proteins `(batch, tokens, hidden)`, each different one read and projected once."""
        if inputs_embeds is not None:
            return self.projection(F.normalize(inputs_embeds, dim=-1))
        ids, places = input_ids.unique(return_inverse=True)
        return F.embedding(places, self.projection(F.normalize(self.genes(ids), dim=-1)))

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        genes = self.embed_genes(input_ids, inputs_embeds)
        return self.dropout(self.positions(genes * self.scale)), genes


class UCEAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: UCEConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        per_head = (-1, self.head_dim)
        query = self.q_proj(hidden_states[:, :num_queries]).unflatten(-1, per_head).transpose(1, 2)
        key = self.k_proj(hidden_states).unflatten(-1, per_head).transpose(1, 2)
        value = self.v_proj(hidden_states).unflatten(-1, per_head).transpose(1, 2)
        if num_queries is not None and attention_mask is not None:
            attention_mask = attention_mask[:, :, :num_queries]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.hidden_dropout_prob if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(context.flatten(2).contiguous()), weights


class UCELayer(GradientCheckpointingLayer):
    """One encoder layer: attention and a ReLU feed-forward part, each normalised after it is added."""

    def __init__(self, config: UCEConfig, layer_idx: int):
        super().__init__()
        self.self_attn = UCEAttention(config, layer_idx)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        attended, _ = self.self_attn(hidden_states, attention_mask, num_queries, **kwargs)
        hidden_states = self.norm1(hidden_states[:, :num_queries] + self.dropout(attended))
        fed_forward = self.linear2(self.dropout(F.relu(self.linear1(hidden_states))))
        return self.norm2(hidden_states + self.dropout(fed_forward))


class UCEBlock(nn.Module):
    """Linear, LayerNorm, GELU, dropout: what the decoders are made of."""

    def __init__(self, input_size: int, output_size: int, config: UCEConfig):
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)
        self.norm = nn.LayerNorm(output_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(F.gelu(self.norm(self.linear(hidden_states))))


class UCEDecoder(nn.Module):
    """Blocks of given widths, the input's first, and a linear output."""

    def __init__(self, sizes: list[int], output_size: int, config: UCEConfig):
        super().__init__()
        self.blocks = nn.ModuleList(UCEBlock(before, after, config) for before, after in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], output_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.output(hidden_states)


class UCEPreTrainedModel(SclmPreTrainedModel):
    """Weights drawn as torch draws linear layers, and the protein table, which travels in a file of its own."""

    config: UCEConfig
    _no_split_modules = ["UCELayer"]
    _can_record_outputs = {"hidden_states": UCELayer, "attentions": UCEAttention}
    # the protein table is read outside of the graph
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            draw_linear(module)
        elif isinstance(module, UCEPositions):
            init.copy_(module.table, UCEPositions.values(*module.table.shape))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As transformers', and the protein table that lies beside the weights is mapped into memory.

        Raises:
            CheckpointError: there is no table, or it does not fit the configuration.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            hub = {name: kwargs[name] for name in _HUB_SETTINGS if kwargs.get(name) is not None}
            path = _protein_file(model.name_or_path or str(pretrained_model_name_or_path), hub)
            model.get_input_embeddings().set_table(UCEProteinTable.open(path))
        return loaded

    def save_pretrained(
        self, save_directory, *args, is_main_process: bool = True, push_to_hub: bool = False, **kwargs
    ):
        """Save configuration, weights, and the protein table beside them.

        Raises:
            ConfigurationError: with `push_to_hub=True`, which would leave the table behind.
        """
        if push_to_hub:
            raise ConfigurationError("Call `model.push_to_hub(…)`, or save first and then `sclm-hf push` the folder.")
        super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            self.get_input_embeddings().the_table().save(Path(save_directory))

    def frozen_tables(self) -> dict[str, Tensor]:
        return {"protein_embeddings": self.get_input_embeddings().the_table().rows}

    def set_protein_embeddings(self, rows: Tensor) -> None:
        """Replace the protein table, for example by one with the proteins of a new species.

        Args:
            rows: `(proteins, protein_embedding_size)`; special tokens first and the rows of known tokens where they
                were. Saved with the model from then on.

        Raises:
            ConfigurationError: the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.config.protein_embedding_size:
            raise ConfigurationError(
                f"Protein embeddings must be (proteins, {self.config.protein_embedding_size}), got "
                f"{tuple(rows.shape)}: embed the proteins with the model that the table was made with."
            )
        genes = self.get_input_embeddings()
        genes.num_embeddings = self.config.vocab_size = rows.shape[0]
        genes.set_table(UCEProteinTable(rows.detach().to("cpu", torch.float32)))

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Nothing to resize: a new gene needs the embedding of its protein.

        Raises:
            ConfigurationError: another number of tokens than there are is asked for.
        """
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ConfigurationError(
                "UCE knows a gene by the embedding of its protein, which cannot be made up: add the embeddings of new "
                "genes with `model.set_protein_embeddings`."
            )
        return self.get_input_embeddings()


def _protein_file(name: str, hub: dict[str, Any]) -> Path:
    try:
        return Path(cached_file(name, PROTEIN_FILE, **hub))
    except OSError as error:
        raise CheckpointError(
            f"`{name}` has no `{PROTEIN_FILE}`, the table of protein embeddings that belongs to the weights: copy it "
            f"from where the model was converted. ({error})"
        ) from error


@auto_docstring(custom_intro="The bare UCE: a cell's sentence in, one vector per token and per cell out.")
class UCEModel(UCEPreTrainedModel):
    embeds_cells_alone = True
    _keys_to_ignore_on_load_unexpected = [r"^gene_projection\.", r"^expression_decoder\.", r"^classifier\."]

    def __init__(self, config: UCEConfig):
        super().__init__(config)
        self.embeddings = UCEEmbeddings(config)
        self.layers = nn.ModuleList(UCELayer(config, index) for index in range(config.num_hidden_layers))
        size = config.cell_embedding_size
        self.decoder = UCEDecoder([config.hidden_size, config.decoder_size, size, size], size, config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        cell_embedding_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            The cell's sentence: `<cls>`, then for each chromosome its token, genes, and the closing token.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            1 at real positions.
        inputs_embeds (`torch.FloatTensor` of shape `(batch, tokens, protein_embedding_size)`, *optional*):
            Embeddings of proteins, in the place of `input_ids`.
        cell_embedding_only (`bool`, *optional*, defaults to `False`):
            Compute the last layer for `<cls>` alone, so that `last_hidden_state` is `(batch, 1, hidden)`.
        """
        refuse_keywords(self, kwargs)
        exactly_one(input_ids=input_ids, inputs_embeds=inputs_embeds)
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        check_cells(self, longest=self.config.max_position_embeddings, **tensors)
        hidden_states, gene_embeddings = self.embeddings(input_ids, inputs_embeds)
        mask = self._attention_mask(hidden_states, attention_mask)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, mask, **kwargs)
        num_queries = last_queries(self, kwargs) if cell_embedding_only else None
        hidden_states = self.layers[-1](hidden_states, mask, num_queries, **kwargs)
        return CellModelOutput(
            last_hidden_state=hidden_states,
            cell_embedding=F.normalize(self.decoder(hidden_states[:, 0]), dim=-1),
            gene_embeddings=gene_embeddings,
        )

    def _attention_mask(self, hidden_states: Tensor, attention_mask: Tensor | None):
        if attention_mask is None or not self.config.padding_is_additive:
            return create_bidirectional_mask(self.config, hidden_states, attention_mask)
        if self.config._attn_implementation not in ("eager", "sdpa"):
            raise ConfigurationError(
                f"`{self.config._attn_implementation}` cannot add to the logits of padding as the original does: set "
                "`config.padding_is_additive=False`, or use `model.set_attn_implementation('sdpa')`."
            )
        return (1 - attention_mask)[:, None, None, :].to(hidden_states.dtype)


@dataclass
class UCEExpressionOutput(ModelOutput):
    """What the expression head returns.

    Args:
        loss (`torch.FloatTensor`, *optional*):
            Scalar, when labels were given.
        logits (`torch.FloatTensor`, *optional*):
            `(batch, queries)` logits of "the cell expresses this gene".
        cell_embedding (`torch.FloatTensor`, *optional*):
            `(batch, cell_embedding_size)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, tokens, hidden)` per layer, when asked for.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            One `(batch, heads, tokens, tokens)` per layer, when asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cell_embedding: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(
    custom_intro="""
    UCE with the decoder of its pre-training: does the cell express a gene, given the cell embedding and the gene's
    protein alone?
    """
)
class UCEForMaskedExpression(UCEPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: UCEConfig):
        super().__init__(config)
        self.model = UCEModel(config)
        self.gene_projection = UCEProteinProjection(config)
        joined_size = config.cell_embedding_size + config.hidden_size
        self.expression_decoder = UCEDecoder([joined_size, *config.expression_decoder_sizes], 1, config)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        query_ids: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UCEExpressionOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            The cell's sentence.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            1 at real positions.
        query_ids (`torch.LongTensor` of shape `(batch, queries)`, *optional*):
            Genes whose expression is asked for; without them there are no logits.
        labels (`torch.FloatTensor` of shape `(batch, queries)`, *optional*):
            1 where the cell expresses the gene, 0 where it does not; -100 is ignored.
        """
        if labels is not None and query_ids is None:
            raise ConfigurationError("`labels` say which of the genes `query_ids` are expressed: pass these too.")
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, attention_mask, **kwargs)
        logits = None if query_ids is None else self.predict_expression(encoded.cell_embedding, query_ids)
        loss = None
        if labels is not None:
            check_targets(labels, logits)
            is_target = labels != IGNORE
            targets = torch.where(is_target, labels, 0).float()
            values = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
            loss = mean_over_targets(values, is_target, num_items)
        return UCEExpressionOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def predict_expression(self, cell_embedding: Tensor, query_ids: Tensor) -> Tensor:
        """Logits `(batch, queries)` of genes being expressed by cells with embeddings `(batch, size)`."""
        check_ids(self, query_ids, "query_ids")
        proteins = self.model.embeddings.genes(query_ids)
        if self.config.normalize_queried_genes:
            proteins = F.normalize(proteins, dim=-1)
        genes = self.gene_projection(proteins)
        cells = cell_embedding.unsqueeze(1).expand(-1, genes.shape[1], -1)
        return self.expression_decoder(torch.cat([cells, genes], dim=-1)).squeeze(-1)


@auto_docstring(custom_intro="UCE with a linear classifier of cells on the cell embedding.")
class UCEForSequenceClassification(UCEPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"^gene_projection\.", r"^expression_decoder\."]

    def __init__(self, config: UCEConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = UCEModel(config)
        self.classifier = nn.Linear(config.cell_embedding_size, head_size(config))
        self.post_init()

    @can_return_tuple
    @with_common_heads
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellClassifierOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            The cell's sentence.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            1 at real positions.
        labels (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Cell types, or what `config.problem_type` asks for; -100 is ignored.
        """
        num_items = kwargs.pop("num_items_in_batch", None)
        encoded = self.model(input_ids, attention_mask, **kwargs)
        logits = self.classifier(encoded.cell_embedding)
        return CellClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config, num_items),
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = [
    "UCEForMaskedExpression",
    "UCEForSequenceClassification",
    "UCEModel",
    "UCEPreTrainedModel",
    "UCEProteinTable",
]
