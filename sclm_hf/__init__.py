"""Single-cell language models as citizens of the Hugging Face ecosystem.

Importing this package is cheap: names are resolved when they are first used (PEP 562), and transformers' Auto classes
learn about our families when transformers loads them. `register()` does the latter at once. `sclm_hf.pp`,
`sclm_hf.tl` and `sclm_hf.pl` are for those who know scanpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .auto_registration import install_hook, register
from .registry import COMPOSITES, FAMILIES, STANDALONE
from .registry.specialists import SPECIALISTS
from .tasks import verb_names

if TYPE_CHECKING:
    # the same as below, for those who check types
    from .corpora.cell_corpus import CellCorpus as CellCorpus
    from .corpora.mixture import MixedCorpus as MixedCorpus
    from .corpora.mixture import mix as mix
    from .tasks.annotate import annotate as annotate
    from .tasks.cluster import cluster as cluster
    from .tasks.denoise import denoise as denoise
    from .tasks.embed import embed as embed
    from .tasks.engines.cell_embedder import CellEmbedder as CellEmbedder
    from .tasks.evaluate import evaluate as evaluate
    from .tasks.explain import explain as explain
    from .tasks.genes.gene_embeddings import gene_embeddings as gene_embeddings
    from .tasks.grn import grn as grn
    from .tasks.impute import impute as impute
    from .tasks.integrate import integrate as integrate
    from .tasks.map import map as map
    from .tasks.multimodal import multimodal as multimodal
    from .tasks.perturb import perturb as perturb
    from .tasks.planning.estimate import estimate as estimate
    from .tasks.predict_perturbation import predict_perturbation as predict_perturbation
    from .tasks.search import search as search
    from .tasks.spatial import spatial as spatial
    from .tokenization.feature_extraction_expression import ExpressionFeatureExtractor as ExpressionFeatureExtractor
    from .tokenization.genes.gene_vocabulary import GeneCoverage as GeneCoverage
    from .tokenization.genes.gene_vocabulary import GeneVocabulary as GeneVocabulary
    from .tokenization.genes.tokenization_gene import GeneTokenizer as GeneTokenizer
    from .tokenization.processing_cell import CellProcessor as CellProcessor
    from .tokenization.processing_sample import SampleProcessor as SampleProcessor
    from .training.specialists import fit as fit

_NAMES = {
    "GeneVocabulary": "sclm_hf.tokenization.genes.gene_vocabulary",
    "GeneCoverage": "sclm_hf.tokenization.genes.gene_vocabulary",
    "GeneTokenizer": "sclm_hf.tokenization.genes.tokenization_gene",
    "ExpressionFeatureExtractor": "sclm_hf.tokenization.feature_extraction_expression",
    "CellProcessor": "sclm_hf.tokenization.processing_cell",
    "CellEmbedder": "sclm_hf.tasks.engines.cell_embedder",
    "CellCorpus": "sclm_hf.corpora.cell_corpus",
    "MixedCorpus": "sclm_hf.corpora.mixture",
    "mix": "sclm_hf.corpora.mixture",
    "fit": "sclm_hf.training.specialists",
    "estimate": "sclm_hf.tasks.planning.estimate",
    "gene_embeddings": "sclm_hf.tasks.genes.gene_embeddings",
    **{name: f"sclm_hf.tasks.{name}" for name in verb_names()},
}
_MODULES = {
    "pl": "sclm_hf.tasks.scanpy_style.pl",
    "pp": "sclm_hf.tasks.scanpy_style.pp",
    "tl": "sclm_hf.tasks.scanpy_style.tl",
}
for _family in FAMILIES.values():
    _NAMES[_family.config] = _family.configuration_module
    _NAMES.update(dict.fromkeys(_family.models, _family.modeling_module))
    _NAMES.update(dict.fromkeys((_family.processor, *_family.public), _family.processor_module))
_composite: Any
for _composite in (*COMPOSITES.values(), *SPECIALISTS.values()):
    _NAMES[_composite.config] = _composite.configuration_module
    _NAMES.update(dict.fromkeys(_composite.models, _composite.modeling_module))
    _NAMES[_composite.processor] = _composite.processor_module
for _model in STANDALONE.values():
    _NAMES[_model.config] = _model.configuration_module
    _NAMES.update(dict.fromkeys(_model.models, _model.modeling_module))

__all__ = ["FAMILIES", "SPECIALISTS", "__version__", "register", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _NAMES:
        raise AttributeError(f"module `sclm_hf` has no attribute `{name}`")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


install_hook()
