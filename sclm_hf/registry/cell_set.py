"""The set model, which predicts cells after perturbations and reads expression as it is."""

from .standalone import Standalone

STANDALONE = Standalone(
    name="cell_set",
    config="CellSetConfig",
    auto_classes={"AutoModel": "CellSetForPerturbation"},
    models=("CellSetForPerturbation",),
)
