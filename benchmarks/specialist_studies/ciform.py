"""CIForm names cells of a platform, donor or study that it was not trained on."""

from functools import partial

from . import ANNOTATIONS, annotation

# the pancreas has 1,403 genes, of which fewer than a patch of 1,024 may be left
SMALLER = {"model_config": {"patch_size": 512}}

STUDIES = {
    title: partial(annotation, "ciform", *data, **(SMALLER if "pancreas" in title else {}))
    for title, data in ANNOTATIONS.items()
}
