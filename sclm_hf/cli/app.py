"""`sclm-hf app`."""

from pathlib import Path
from typing import Annotated

import typer


def app(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder or repository id of a classifier; may be repeated, the first is chosen at the start."
        ),
    ] = None,
    text_model: Annotated[
        str | None, typer.Option(help="Language model that answers questions about cells, as for `chat`.")
    ] = None,
    max_cells: Annotated[int, typer.Option(min=20, help="Most cells of an uploaded file.")] = 2000,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest file to upload.")] = 200,
    time_limit: Annotated[float, typer.Option(help="Seconds that one run may take.")] = 300.0,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of uploads and results, which tools for agents read; by default a temporary one."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 serves the whole network.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; by default the first free one from 7860.")] = None,
    mcp: Annotated[bool, typer.Option(help="Be a server of tools for agents (MCP) too.")] = True,
) -> None:
    """Serve a page that annotates cells in the browser: upload, map, genes of a cell, download.

    Needs the extra `app`. Everybody who reaches HOST can use it; it opens only the models named here.
    """
    from ..app.page import launch
    from ..app.settings import AppSettings

    settings = AppSettings(
        models=tuple(model or ()),
        text_model=text_model,
        max_cells=max_cells,
        max_megabytes=max_megabytes,
        time_limit=time_limit,
        folder=folder,
    )
    launch(settings, host=host, port=port, mcp=mcp)
