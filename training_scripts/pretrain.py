"""Pre-train a single-cell model. Copy this file and change what you like; `sclm-hf pretrain` does the same.

    python training_scripts/pretrain.py --config training_scripts/recipes/pretrain_scgpt.yaml --train_files cells.h5ad
    accelerate launch --config_file training_scripts/accelerate/multi_gpu.yaml training_scripts/pretrain.py \
        --config training_scripts/recipes/pretrain_scgpt.yaml --train_files atlas/
"""

from accelerate.utils import set_seed

from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.data import DataArguments, open_corpora
from sclm_hf.training.loop import train
from sclm_hf.training.pretrain import PretrainArguments, create_collator, create_model, create_processor


def main(argv: list[str] | None = None) -> None:
    data, arguments, config = parse_arguments((DataArguments, PretrainArguments, TrainingConfig), argv)
    set_seed(config.seed)

    # genes become ids and counts become bins
    processor = create_processor(data, arguments)
    # batches become inputs and targets
    collator = create_collator(arguments, processor, seed=config.seed)
    # files become one shuffled stream of batches
    corpus, eval_corpus = open_corpora(data, processor, start_from=arguments.model_name_or_path, seed=config.seed)
    # a new model, or one to go on from
    model = create_model(arguments, processor, n_batches=len(corpus.batch_names or ()))

    result = train(model, corpus, collator, config, eval_corpus=eval_corpus, processor=processor)
    if result.is_main_process:
        print(result.summary())


if __name__ == "__main__":
    main()
