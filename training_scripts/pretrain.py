"""Pre-train a single-cell model: `sclm-hf pretrain` as a script, which launchers start.

    python training_scripts/pretrain.py --config training_scripts/recipes/pretrain_scgpt.yaml --train_files cells.h5ad
    accelerate launch --config_file training_scripts/accelerate/multi_gpu.yaml training_scripts/pretrain.py \
        --config training_scripts/recipes/pretrain_scgpt.yaml --train_files atlas/

To change a step, write your own script after `sclm_hf.training.pretrain.pretrain`, which is a dozen lines.
"""

from sclm_hf.training.verbs import pretrain

if __name__ == "__main__":
    pretrain()
