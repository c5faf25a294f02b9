"""The page of the app, in gradio: what users see and click; each step is a function of the other files."""

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, SclmError, require
from ..tasks.annotate import ANNOTATE, AnnotateSettings
from .analysis import CONFIDENCE, PREDICTION, Analysis, analyse, ask, row_of, top_genes, write_result
from .cells import read_upload, unseen_cells
from .pictures import clicked, draw_maps
from .settings import AppSettings
from .tools import choose_model, make_tools, model_names

if TYPE_CHECKING:
    from gradio import Blocks

KEPT = 3600
"""Seconds after which files and the cells of a session without events are removed."""

INTRODUCTION = """# Single cells, read by a language model
Upload counts or take the built-in PBMCs, and see what a model of `sclm_hf` says of each cell. Labels are those of the
model: it has no other answer for a cell of a type that it was not trained on. The small default model is a
demonstration, not meant for research."""


def launch(settings: AppSettings, *, host: str = "127.0.0.1", port: int | None = None, mcp: bool = True) -> None:
    """Serve the app until it is stopped, then remove its files.

    Args:
        settings: settings of the app.
        host: address to listen on.
        port: port to listen on; by default the first free one from 7860.
        mcp: whether it is an MCP server too.

    Raises:
        CheckpointError: a model cannot be read, or is no classifier.
        ConfigurationError: the port is taken.
        MissingDependencyError: gradio is not installed.
    """
    ended = threading.Event()
    try:
        page = make_page(settings)
        for model in settings.models:
            ANNOTATE.load(model, None, AnnotateSettings())
        threading.Thread(target=_keep_tidy, args=(settings, ended), daemon=True).start()
        _serve(page, host, port, mcp_server=mcp, **launch_options(settings))
    finally:
        ended.set()
        if settings.is_temporary:
            shutil.rmtree(settings.folder, ignore_errors=True)


def _serve(page: "Blocks", host: str, port: int | None, **options: Any) -> None:
    try:
        page.launch(server_name=host, server_port=port, **options)
    except OSError as error:
        where = f"port {port}" if port else "any port from 7860"
        raise ConfigurationError(
            f"Cannot listen on {host}, {where}, which may be taken: name another (`--port`)."
        ) from error


def _keep_tidy(settings: AppSettings, ended: threading.Event) -> None:
    """Remove old files every ten minutes, until the app has ended."""
    while not ended.wait(600):
        settings.remove_old_files(KEPT)


def launch_options(settings: AppSettings) -> dict[str, Any]:
    """What `Blocks.launch` has to know: the largest upload, and that nothing is shared or sent elsewhere."""
    return {"max_file_size": settings.max_megabytes * 10**6, "share": False, "show_error": True, "ssr_mode": False}


def make_page(settings: AppSettings) -> "Blocks":
    """The page, ready to be launched; what a visitor uploads and sees is the session's alone.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    # gradio reads both when it is imported or used first
    os.environ["GRADIO_TEMP_DIR"] = str(settings.folder)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr = require("gradio", extra="app")
    results = tempfile.TemporaryDirectory(prefix="results-", dir=settings.folder, ignore_cleanup_errors=True)
    with gr.Blocks(title="sclm_hf", delete_cache=(600, KEPT)) as page:
        # it goes with the page
        page.sclm_results = results
        parts = _lay_out(gr, settings)
        _connect(gr, parts, settings, Path(results.name))
        for tool in make_tools(settings):
            gr.api(_in_one_message(gr, tool), api_name=tool.__name__, concurrency_id="model")
    # one run at a time, the others wait
    return page.queue(max_size=32, default_concurrency_limit=1)


def _lay_out(gr: Any, settings: AppSettings) -> SimpleNamespace:
    """The parts of the page, and what a session keeps."""
    parts, names = SimpleNamespace(), list(model_names(settings))
    limits = f"An `.h5ad` file of raw counts, at most {settings.max_cells:,} cells and {settings.max_megabytes:,} MB."
    gr.Markdown(f"{INTRODUCTION}\n\n{limits}")
    parts.uploaded, parts.analysis, parts.maps = (gr.State(None, time_to_live=KEPT) for _ in range(3))
    parts.result = gr.State(None, time_to_live=KEPT, delete_callback=remove_result)
    with gr.Row():
        with gr.Column(scale=2):
            label = "Your cells; none = built-in PBMCs"
            parts.file = gr.File(label=label, file_types=[".h5ad"], height=170, elem_id="upload")
        with gr.Column(scale=1):
            parts.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
            parts.run = gr.Button("Run", variant="primary", elem_id="run")
    parts.summary = gr.Markdown("Press *Run*.", min_height=100, elem_id="summary")
    with gr.Row():
        parts.images = [
            gr.Image(show_label=False, interactive=False, buttons=[], visible=False, elem_id=name)
            for name in ("labels", "confidence")
        ]
    parts.download = gr.DownloadButton("Download annotated .h5ad", visible=False, elem_id="download")
    with gr.Column(visible=False) as parts.about:
        _lay_out_cell(gr, settings, parts)
    return parts


def _lay_out_cell(gr: Any, settings: AppSettings, parts: SimpleNamespace) -> None:
    """What is shown of one cell."""
    parts.cell = gr.Dropdown([], label="Cell", info="Click on a map, or search by name.", elem_id="cell")
    parts.told = gr.Markdown(elem_id="told")
    parts.genes = gr.Dataframe(
        label="Genes that speak most for the label: integrated gradients, in log-odds (sclm_hf.explain)",
        headers=["gene", "attribution", "counts"],
        interactive=False,
        visible=False,
        elem_id="genes",
    )
    if settings.text_model is None:
        gr.Markdown("**Questions about a cell** need a language model: start the app with `--text-model`.")
        return
    parts.question = gr.Textbox("Which cell type is it?", label="Question about this cell", elem_id="question")
    parts.answer = gr.Markdown(elem_id="answer")


def _connect(gr: Any, parts: SimpleNamespace, settings: AppSettings, results: Path) -> None:
    """What happens on each event; runs of models wait for one another."""

    def on(event: Any, function: Callable, inputs: list, outputs: Any, **options: Any) -> None:
        step = _in_one_message(gr, function)
        event(step, inputs, outputs, concurrency_id="model", api_visibility="private", **options)

    def take(path):
        return read_upload(path, settings)

    def run(cells, name, earlier):
        remove_result(earlier)
        model = choose_model(name, settings)
        found = analyse(unseen_cells(model) if cells is None else cells, model, time_limit=settings.time_limit)
        path = write_result(found, Path(tempfile.mkdtemp(dir=results)))
        maps, names = draw_maps(found), list(found.cells.obs_names)
        images = [gr.update(value=one.pixels, visible=True) for one in maps]
        button, cell = gr.update(value=str(path), visible=True), gr.update(choices=names, value=None)
        return found, maps, path, found.summary, *images, button, cell, gr.update(visible=True)

    def choosing(which):
        def choose(maps, found, event: gr.SelectData):
            row = None if maps is None else clicked(maps[which], *event.index)
            return gr.skip() if row is None else found.cells.obs_names[row]

        return choose

    def show_cell(found, name):
        if found is None or not name:
            return "", gr.update(visible=False), *(gr.skip() for _ in parts.images)
        row, table = row_of(found, name), top_genes(found, name, time_limit=settings.time_limit)
        genes = gr.update(value=table.round(3), visible=True)
        return told_of(found, row), genes, *(one.pixels for one in draw_maps(found, row))

    def answer(found, name, question):
        if found is None or not name:
            raise ConfigurationError("Choose a cell first.")
        return ask(found, name, question, settings.text_model, time_limit=settings.time_limit)

    shown = [parts.analysis, parts.maps, parts.result, parts.summary, *parts.images, parts.download]
    on(parts.file.upload, take, [parts.file], parts.uploaded)
    on(parts.file.clear, lambda: None, [], parts.uploaded)
    given, outputs = [parts.uploaded, parts.model, parts.result], [*shown, parts.cell, parts.about]
    on(parts.run.click, run, given, outputs, show_progress_on=parts.summary)
    for which, image in enumerate(parts.images):
        on(image.select, choosing(which), [parts.maps, parts.analysis], parts.cell)
    on(parts.cell.change, show_cell, [parts.analysis, parts.cell], [parts.told, parts.genes, *parts.images])
    if settings.text_model is not None:
        on(parts.question.submit, answer, [parts.analysis, parts.cell, parts.question], parts.answer)


def remove_result(path: Path | None) -> None:
    """Remove the file of a run that was repeated, or whose session is over, with its folder."""
    if path is not None:
        shutil.rmtree(path.parent, ignore_errors=True)


def told_of(analysis: Analysis, row: int) -> str:
    """The label of a cell, its probability, and what `obs["cell_type"]` of the file says, in Markdown."""
    obs = analysis.cells.obs.iloc[row]
    told = f"**{obs.name}**: {obs[PREDICTION]}, with probability {obs[CONFIDENCE]:.2f}"
    return f"{told}; the file calls it {obs['cell_type']}" if "cell_type" in obs else told


def _in_one_message(gr: Any, function: Callable) -> Callable:
    """The function, whose errors of ours are shown as one message; anything else is a bug and keeps its traceback."""

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except SclmError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error

    return called
