"""`sclm-hf chat INPUT --model DIR`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from .options import Device, Dtype, Layer, Model, Revision, Seed, Species

if TYPE_CHECKING:
    from ..text.chat import Answer


def chat(
    input: Annotated[Path, typer.Argument(help="`.h5ad` file with raw counts.")],
    model: Model,
    cells: Annotated[
        str | None, typer.Option(help="Names of the cells to ask about, or with --by of groups, separated by commas.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Column of obs: ask about its groups instead of cells.")] = None,
    n_typical: Annotated[
        int, typer.Option("--typical", min=1, help="How many cells stand for a group, those closest to its mean.")
    ] = 1,
    index: Annotated[Path | None, typer.Option(help="Folder of an index of evidence.")] = None,
    embedding_key: Annotated[
        str | None, typer.Option(help="Embedding in obsm with which neighbours are found in the index.")
    ] = None,
    group_key: Annotated[
        str | None,
        typer.Option(help="Column of obs with the donor or data set, whose cells in the index are not shown."),
    ] = None,
    k: Annotated[int, typer.Option("--neighbours", min=0, help="Neighbours of a cell that are evidence.")] = 5,
    question: Annotated[
        str | None, typer.Option(help="Ask this alone; without it, questions are read line by line.")
    ] = None,
    organism: Annotated[str, typer.Option(help="What prompts call the species.")] = "human",
    n_genes: Annotated[
        int | None, typer.Option(min=1, help="Genes of a cell's sentence; by default as many as in training.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Above 0, answers are drawn, by --seed.")] = 0.0,
    seed: Seed = 0,
    layer: Layer = None,
    species: Species = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer.")] = False,
) -> None:
    """Ask a language model about cells of an .h5ad file, or about groups of them.

    Questions are read from the terminal, or from what is piped in, one per line. `/cells NAME,NAME` goes on with other
    cells or groups, `/quit` ends. For the probability of every label of a closed set, use `sclm-hf annotate`.
    """
    from ..tasks.files.h5ad import read_h5ad
    from ..text.chat import Chat

    session = Chat(
        read_h5ad(input),
        model,
        index,
        by=by,
        n_typical=n_typical,
        embedding_key=embedding_key,
        group_key=group_key,
        k=k,
        organism=organism,
        layer=layer,
        species=species,
        n_genes=n_genes,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        device=device,
        dtype=dtype,
        revision=revision,
    )
    show = _print_json if as_json else _print
    chosen = None if cells is None else _names(cells)
    if question is not None:
        show(session.ask(question, chosen))
        return
    _converse(session, chosen, show)


def _converse(session, chosen: list[str] | None, show) -> None:
    """Answer line by line; at a terminal, what cannot be answered ends nothing."""
    from ..errors import SclmError

    is_terminal = sys.stdin.isatty()
    while (line := _read(is_terminal)) is not None and line != "/quit":
        if line.split()[:1] == ["/cells"]:
            chosen = _names(line.removeprefix("/cells"))
        elif line:
            try:
                if line.startswith("/"):
                    raise ConfigurationError(f"There is no {line.split()[0]}: `/cells NAME,NAME` or `/quit`.")
                show(session.ask(line, chosen))
            except SclmError as error:
                if not is_terminal:
                    raise
                typer.secho(f"Error: {error}", fg="red", err=True)


def _read(is_terminal: bool) -> str | None:
    """The next line without white space around it; None at the end."""
    if is_terminal:
        typer.echo("> ", nl=False, err=True)
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"Questions must be text in {sys.stdin.encoding}: {error}.") from error
    return line.strip() if line else None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _print(answer: "Answer") -> None:
    if answer.n_forgotten:
        questions = "question is" if answer.n_forgotten == 1 else f"{answer.n_forgotten} questions are"
        typer.echo(f"(The oldest {questions} left out: there is no room for more.)")
    for number, cell in enumerate(answer.cells, 1):
        stands_for = "" if cell.group is None else f", a typical cell of {cell.group}"
        typer.echo(f"Cell {number}: {cell.name}{stands_for}")
    typer.echo(answer.text or "(The model wrote nothing.)")
    if answer.documents:
        typer.echo("Sources:")
    for one in answer.documents:
        cited = " (cited)" if one.id in answer.citations.known else ""
        typer.echo(f"  [{one.id}] {one.label}{cited}: {one.text}")
    if answer.citations.unknown:
        typer.echo(f"Cited, but not among the sources: {', '.join(answer.citations.unknown)}")


def _print_json(answer: "Answer") -> None:
    said = {
        "question": answer.question,
        "answer": answer.text,
        "label": answer.label,
        "cells": [{"name": one.name, "group": one.group} for one in answer.cells],
        "sources": [{**one._asdict(), "cited": one.id in answer.citations.known} for one in answer.documents],
        "unknown_citations": list(answer.citations.unknown),
        "n_forgotten": answer.n_forgotten,
    }
    typer.echo(json.dumps(said, ensure_ascii=False))
