"""transCluster names cells of a platform, donor or study that it was not trained on.

It is trained for 100 epochs, between the 200 of most published tissues and the 20 of others, which are too few steps
where there are some hundred cells.
"""

from functools import partial

from . import ANNOTATIONS, annotation

STUDIES = {
    f"{title}, 100 epochs": partial(annotation, "transcluster", *data, training={"num_train_epochs": 100})
    for title, data in ANNOTATIONS.items()
}
