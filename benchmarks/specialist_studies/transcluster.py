"""transCluster names cells of a platform, donor or study that it was not trained on."""

from functools import partial

from . import ANNOTATIONS, annotation

STUDIES = {title: partial(annotation, "transcluster", *data) for title, data in ANNOTATIONS.items()}
