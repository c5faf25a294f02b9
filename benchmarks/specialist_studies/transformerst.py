"""TransformerST divides tissue into domains, beside principal components with and without smoothing.

Of the bulb the five layers are known, and all methods are told that there are five. The slices of the tumour have no
labels: how well domains hang together is shown, and how far they are the slices, which should be little, as slices of
one tumour have the same regions.

It is trained for 200 epochs instead of 1,000, and its codes are not, as published: with those that are, spots of the
bulb lie in one island per code, and no resolution of Leiden gives five. What the graphs gather varies little either
way: the loss of neighbours does not weigh the few pairs that are some against the many that are not, so that products
near 0 are nearly as good as any.
"""

from functools import partial

import sclm_hf

from . import fitted, read

OF_SLICES = "ARI with the slice, low is good"


def domains(dataset: str, label_key: str, seed: int, sample_key: str | None = None, **settings) -> dict[str, dict]:
    """Agreement of five domains with labels, and how well domains hang together.

    Args:
        dataset: the data set.
        label_key: column of `obs` with the labels.
        seed: of the model and of Leiden.
        sample_key: column of `obs` that tells slices apart, where these are all that is known.
        **settings: of `fit`.
    """
    cells = read(dataset)
    folder = fitted("transformerst", cells, seed, sample_key=sample_key, **settings)
    found = sclm_hf.spatial(cells, folder, domains=5, label_key=label_key, seed=seed)
    scores = found.uns["sclm_hf"]["sclm_domain"]["scores"]
    names = ("ari", "nmi", "coherence")
    rows = zip(*(scores[name] for name in names), strict=True)
    of = {
        method: dict(zip(names, map(float, row), strict=True))
        for method, row in zip(scores["method"], rows, strict=True)
    }
    if sample_key is None:
        return of
    return {method: {OF_SLICES: one["ari"], "coherence": one["coherence"]} for method, one in of.items()}


AS_PUBLISHED = {"training": {"num_train_epochs": 200}, "model_config": {"code_loss_weight": 0.0}}
STUDIES = {
    "domains, spatial_mob_260, five layers, 200 epochs, codes that are not trained": partial(
        domains, "spatial_mob_260", "cell_type", **AS_PUBLISHED
    ),
    "domains, spatial_st_breast_4slices, 200 epochs, codes that are not trained": partial(
        domains, "spatial_st_breast_4slices", "batch", sample_key="batch", **AS_PUBLISHED
    ),
}
