"""Fine-tune a model to annotate cells: `sclm-hf finetune` as a script, which launchers start.

    python training_scripts/finetune.py --config training_scripts/recipes/finetune_scgpt_lora.yaml \
        --model_name_or_path pretrained --train_files cells.h5ad --label_column cell_type
    python training_scripts/finetune.py --config training_scripts/recipes/finetune_scgpt.yaml \
        --model_name_or_path pretrained --train_files cells.h5ad --label_column cell_type

To change a step, write your own script after `sclm_hf.training.finetune.finetune`, which is a dozen lines.
"""

from sclm_hf.training.verbs import finetune

if __name__ == "__main__":
    finetune()
