"""How layers are spread over processes: plans of transformers for sharding (FSDP2) and for tensor parallelism.

What a plan does not name is gathered whole for a forward pass, and kept: it saves no memory.
"""

SHARDED = {"embeddings.genes": "free_full_weight", "layers.*": "free_full_weight"}
"""Models with a table of genes and `layers` of their own: each is gathered when it runs, and freed after it."""

SPLIT = {
    **{f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"},
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.linear1": "colwise",
    "layers.*.linear2": "rowwise",
}
"""The same models: heads and the feed-forward width are divided over processes. scBERT with
`key_maximum="batch"` shifts its features by the largest of the heads of a process: equal but for their `eps`."""

SHARDED_BERT = {"embeddings.word_embeddings": "free_full_weight", "encoder.layer.*": "free_full_weight"}
SPLIT_BERT = {
    **{f"encoder.layer.*.attention.self.{name}": "colwise" for name in ("query", "key", "value")},
    "encoder.layer.*.attention.output.dense": "rowwise",
    "encoder.layer.*.intermediate.dense": "colwise",
    "encoder.layer.*.output.dense": "rowwise",
}
"""Models that are a BERT of transformers."""

SHARDED_GPT2 = {
    "wte": "free_full_weight",
    "wpe": "free_full_weight",
    "h.*": "free_full_weight",
    "ln_f": "keep_full_weight",
}
"""Models that are a GPT-2 of transformers, whose fused projections no plan divides."""
