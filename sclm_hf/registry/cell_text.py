"""What the package knows about language models that read cells as soft tokens."""

from .composite import Composite

COMPOSITE = Composite(
    name="cell_text",
    title="Cell-text model",
    paper=(
        "Liu et al. Visual instruction tuning. NeurIPS (2023), the design; Schaefer et al. Multimodal learning "
        "enables chat-based exploration of single-cell data. Nature Biotechnology (2025), its use for cells"
    ),
    config="CellTextConfig",
    auto_classes={
        "AutoModel": "CellTextModel",
        "AutoModelForMultimodalLM": "CellTextForConditionalGeneration",
        "AutoModelForImageTextToText": "CellTextForConditionalGeneration",
    },
    models=("CellTextModel", "CellTextForConditionalGeneration"),
    processor="CellTextProcessor",
    verbs=("annotate",),
    instead_of_heads=(
        "To annotate cells the folder needs a `candidates.json`, the answers among which it chooses: train the model "
        "with `sclm-hf finetune --cell_model …`, which writes it, or describe the labels to a dual encoder (`labels`, "
        "`--labels`)."
    ),
    without_us=(
        '`model(**processor("Which type is <cell>", cells[:1], return_tensors="pt"))` reads a prompt with a cell of '
        "an AnnData of raw counts; `AutoModelForMultimodalLM` in the place of `AutoModel` answers, by `generate`."
    ),
    usage="""\
from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained("{model}")
processor = AutoProcessor.from_pretrained("{model}")
question = {{"type": "text", "text": "Which type is this cell?"}}
batch = processor.apply_chat_template(
    [{{"role": "user", "content": [{{"type": "cell"}}, question]}}],
    cells=cells[:1],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
answer = model.generate(**batch, max_new_tokens=20)[:, batch["input_ids"].shape[1] :]
print(processor.batch_decode(answer, skip_special_tokens=True))""",
)
