import importlib
import inspect

import pytest

from sclm_hf import FAMILIES
from sclm_hf.modeling.common.outputs import CellClassifierOutput, CellModelOutput, GenesOutput

SHARED = {
    "AutoModel": CellModelOutput,
    "AutoModelForSequenceClassification": CellClassifierOutput,
    "AutoModelForTokenClassification": GenesOutput,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_share_their_outputs(family):
    known = FAMILIES[family]
    module = importlib.import_module(known.modeling_module)
    for auto_class in SHARED.keys() & known.auto_classes.keys():
        forward = getattr(module, known.auto_classes[auto_class]).forward
        assert issubclass(inspect.signature(forward).return_annotation, SHARED[auto_class]), auto_class
