"""Settings of the documentation: `sphinx-build -W docs docs/_build`, with `pip install ".[docs]"`."""

import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# pages run in processes of their own, which import `cells`
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
os.environ["SCLM_NO_PROGRESS"] = "1"

project = "sclm_hf"
author = "The sclm_hf authors"
copyright = "The sclm_hf authors. Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "sclm_hf"
exclude_patterns = ["_build", ".jupyter_cache", "experiments/.pieces", "jupyter_execute"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# pages of code are run when the documentation is built
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"
autodoc_typehints = "description"
# lines of types that only type checkers see
suppress_warnings = ["docutils", "ref.class", "mystnb.unknown_mime_type", "myst.xref_missing"]
nitpicky = False


def _write_reference(_app: object) -> None:
    """A page with every public name."""
    import sclm_hf

    style = "sclm_hf.tasks.scanpy_style"
    modules = {"pl": f"{style}.pl", "plots": "sclm_hf.evaluation.plots", "pp": f"{style}.pp"}
    lines = ["# Reference", "", "Every name is imported from `sclm_hf`.", ""]
    for title, names in _groups(sclm_hf).items():
        lines += [f"## {title}", ""]
        for name in names:
            module = importlib.import_module(getattr(sclm_hf, name).__module__).__name__
            kind = "autofunction" if name[0].islower() else "autoclass"
            lines += [f"```{{eval-rst}}\n.. {kind}:: {module}.{name}\n```", ""]
    for name, module in modules.items():
        title = "What `pl` draws from arrays and tables" if name == "plots" else f"sclm_hf.{name}"
        lines += [f"## {title}", "", f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```", ""]
    (HERE / "reference.md").write_text("\n".join(lines), encoding="utf-8")


def _groups(package: object) -> dict[str, list[str]]:
    """The public functions and classes: verbs first; models are documented by transformers' own means."""
    from sclm_hf.tasks import verb_names

    verbs = [*verb_names(), "fit", "gene_embeddings", "estimate"]
    data = ["CellProcessor", "ExpressionFeatureExtractor", "GeneTokenizer", "GeneVocabulary", "GeneCoverage"]
    streams = ["CellCorpus", "MixedCorpus", "mix", "CellEmbedder", "register"]
    return {"Verbs": verbs, "Cells become tensors": data, "Streams": streams}


def setup(app):
    app.connect("builder-inited", _write_reference)
