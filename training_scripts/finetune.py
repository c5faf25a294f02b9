"""Fine-tune a model to annotate cells. Copy this file and change what you like; `sclm-hf finetune` does the same.

    python training_scripts/finetune.py --config training_scripts/recipes/finetune_scgpt_lora.yaml \
        --model_name_or_path pretrained --train_files cells.h5ad --label_column cell_type
    python training_scripts/finetune.py --config training_scripts/recipes/finetune_scgpt_full.yaml \
        --model_name_or_path pretrained --train_files cells.h5ad --label_column cell_type
"""

from accelerate.utils import set_seed

from sclm_hf.opening.processors import load_processor
from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.data import DataArguments, open_corpora
from sclm_hf.training.finetune import FinetuneArguments, adapt, create_classifier
from sclm_hf.training.loop import train


def main(argv: list[str] | None = None) -> None:
    data, arguments, config = parse_arguments((DataArguments, FinetuneArguments, TrainingConfig), argv)
    set_seed(config.seed)

    # the vocabulary and encoding that the model was pre-trained with
    processor = load_processor(arguments.model_name_or_path)
    # labelled cells, with some held out
    corpus, eval_corpus = open_corpora(
        data,
        processor,
        label_column=arguments.label_column,
        task_columns=arguments.task_columns or (),
        start_from=arguments.model_name_or_path,
        seed=config.seed,
    )
    # the pre-trained model with a new classifier, or one for each task
    model, collator, compute_metrics = create_classifier(corpus, processor, arguments)
    # frozen but for a LoRA unless all weights are trained
    model = adapt(model, arguments)

    result = train(
        model,
        corpus,
        collator,
        config,
        eval_corpus=eval_corpus,
        compute_metrics=compute_metrics,
        processor=processor,
    )
    if result.is_main_process:
        print(result.summary())


if __name__ == "__main__":
    main()
