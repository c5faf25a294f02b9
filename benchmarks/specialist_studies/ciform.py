"""CIForm names cells of a platform, donor or study that it was not trained on."""

from functools import partial

from . import annotation

STUDIES = {
    "annotation, pbmc_3tech_symphony, 10x 5' held out": partial(
        annotation, "ciform", "pbmc_3tech_symphony_1200", "platform", "10x 5'"
    ),
    "annotation, covid_balf, donor C146 held out": partial(annotation, "ciform", "covid_balf_liao", "batch", "C146"),
    "annotation, pancreas, batch 4 held out": partial(
        annotation, "ciform", "pancreas_3batch_cepo_528", "batch", "batch 4", model_config={"patch_size": 512}
    ),
}
