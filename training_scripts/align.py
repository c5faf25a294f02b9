"""Train an encoder of cells and one of texts to share a space: `sclm-hf align` as a script, which launchers start.

    python training_scripts/align.py --model_name_or_path pretrained --text_model new --train_files cells.h5ad \
        --label_column cell_type --labels descriptions.csv
"""

from sclm_hf.training.verbs import align

if __name__ == "__main__":
    align()
