"""scTransSort names cells of a platform, donor or study that it was not trained on.

The encoder is smaller than published: 4 layers of width 192 on images of 48 pixels, which hold 2,000 genes as those of
224 do, instead of ViT-Base.
"""

from functools import partial

from . import ANNOTATIONS, annotation

SMALL = {
    "image_size": 48,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}

STUDIES = {
    f"{title}, small encoder": partial(annotation, "sctranssort", *data, model_config=SMALL)
    for title, data in ANNOTATIONS.items()
}
