"""`sclm-hf corpus`: `build IN... OUT_DIR`, `info PATH...`, `check DIR` and `benchmark DIR`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError
from ..logging import counted
from .instructions import InstructionSettings, build_instructions
from .options import Layer, Species, with_settings

corpus = typer.Typer(
    help="Corpora of cells: build Parquet shards, look at them, check them, make them benchmarks.",
    no_args_is_help=True,
)

_INPUTS = "`.h5ad` files, AnnData zarr folders, folders of them or of shards; NAME=PATH gives one a name."
_MOST_VALUES = 10


@corpus.command()
@with_settings(InstructionSettings)
def build(
    inputs: Annotated[list[str], typer.Argument(help=_INPUTS)],
    output: Annotated[Path, typer.Argument(help="Folder to write; an interrupted build goes on.")],
    obs_column: Annotated[list[str] | None, typer.Option(help="Column of obs to keep; may be repeated.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE that cells must have; repeated for more values or columns.")
    ] = None,
    layer: Layer = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Most cells of a shard.")] = 16384,
    title: Annotated[str | None, typer.Option(help="Title of the card; else the folder's name.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the data, as the Hub names it.")] = "unknown",
    organism: Annotated[str, typer.Option(help="Species of the cells.")] = "unknown",
    description: Annotated[str, typer.Option(help="What the card says first.")] = "",
    instructions: Annotated[
        str | None,
        typer.Option(help="Write conversations instead of counts: the name of a task, or a YAML file of wordings."),
    ] = None,
    **settings: Any,
) -> None:
    """Write raw counts, or conversations about the cells, as Parquet shards with a manifest and a dataset card."""
    from ..corpora.building.build import build_corpus
    from ..corpora.filters import read_conditions

    asked = InstructionSettings(**settings)
    if instructions is not None:
        if obs_column:
            raise ConfigurationError("`--obs-column` is about counts: conversations take `--column` and `--match`.")
        about = {"organism": organism, "layer": layer, "where": read_conditions(where or [])}
        about |= {"title": title, "license": license, "description": description}
        inputs = _named(inputs)
        typer.echo(build_instructions(asked, instructions, inputs, output, shard_size=shard_size, **about))
        return
    asked.refuse_alone()
    manifest = build_corpus(
        _named(inputs),
        output,
        obs_columns=obs_column or (),
        layer=layer,
        where=read_conditions(where or []),
        shard_size=shard_size,
        title=title,
        license=license,
        organism=organism,
        description=description,
    )
    n_shards = sum(len(dataset.shards) for dataset in manifest.datasets.values())
    typer.echo(
        f"{output} holds {counted(manifest.n_cells, 'cell')} of {counted(len(manifest.datasets), 'data set')} in "
        f"{counted(n_shards, 'shard')}."
    )
    for name, dataset in manifest.datasets.items():
        for number, which in ((dataset.n_filtered, "that `--where` excludes"), (dataset.n_empty, "without counts")):
            if number:
                typer.echo(f"{name}: {counted(number, 'cell')} {which} left out.")


@corpus.command()
def info(
    paths: Annotated[list[str], typer.Argument(help=_INPUTS)],
    column: Annotated[list[str] | None, typer.Option(help="Column of obs to count; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Model or processor whose vocabulary the genes meet.")] = None,
    layer: Layer = None,
    species: Species = None,
) -> None:
    """Show cells, genes and labels of a corpus, and how many of its genes a model knows."""
    from rich.console import Console

    from ..corpora.building.info import describe_corpus

    processor = None
    if model is not None:
        from ..opening.processors import load_processor

        processor = load_processor(model)
    found = describe_corpus(_named(paths), columns=column or (), processor=processor, layer=layer, species=species)
    console = Console()
    console.print(_sources_table(found))
    columns = sorted({name for source in found for name in source.columns})
    console.print(f"Columns of obs: {', '.join(columns) or 'none'}", markup=False)
    for name in column or ():
        console.print(_labels_table(name, found))


@corpus.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder that `sclm-hf corpus build` wrote.")]) -> None:
    """Verify every shard of a folder and name what is broken."""
    from ..corpora.building.check import check_corpus

    problems = check_corpus(folder)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        typer.echo(f"{counted(len(problems), 'problem')}.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{folder} is sound.")


@corpus.command()
def benchmark(
    folder: Annotated[Path, typer.Argument(help="Folder that `sclm-hf corpus build` wrote.")],
    label_key: Annotated[str, typer.Option(help="Column of obs with the labels that models are to predict.")],
) -> None:
    """Register a folder of shards as a benchmark of cell types: write `eval.yaml`, which goes to the Hub with it."""
    from ..hub.benchmark import write_benchmark

    path = write_benchmark(folder, label_column=label_key)
    typer.echo(f"{path} is written: push the folder with `sclm-hf push {folder} ME/NAME --repo-type dataset`.")


def _named(inputs: list[str]) -> Any:
    """A mapping name -> path when names are given, else the paths."""
    from ..sources.opening import name_paths

    named: dict[str, Path] = {}
    for text in inputs:
        name, mark, path = text.partition("=")
        pairs = {name: Path(path)} if mark and not Path(text).exists() else name_paths(text)
        twice = sorted(set(pairs) & set(named))
        if twice:
            raise ConfigurationError(f"Two inputs have the name `{twice[0]}`: give one another, NAME=PATH.")
        named.update(pairs)
    return named


def _sources_table(found: list[Any]) -> Any:
    from rich.table import Table

    table = Table("source", title_justify="left")
    for name in ("cells", "genes", "genes known", "counts covered"):
        table.add_column(name, justify="right")
    for source in found:
        coverage = source.coverage
        known = ("", "") if coverage is None else (f"{_n_known(coverage):,}", f"{coverage.count_share:.1%}")
        table.add_row(source.name, f"{source.n_cells:,}", f"{source.n_genes:,}", *known)
    table.add_section()
    table.add_row("all", f"{sum(source.n_cells for source in found):,}", "", "", "")
    return table


def _n_known(coverage: Any) -> int:
    numbers = coverage.to_dict()
    return numbers["n_matched"] + numbers["n_renamed"]


def _labels_table(name: str, found: list[Any]) -> Any:
    from rich.table import Table

    totals: dict[str, int] = {}
    for source in found:
        for value, number in source.labels[name].items():
            totals[value] = totals.get(value, 0) + number
    table = Table(name, title=f"{counted(len(totals), 'value')} of obs[{name!r}]", title_justify="left")
    table.add_column("cells", justify="right")
    listed = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    for value, number in listed[:_MOST_VALUES]:
        table.add_row(value or "(no value)", f"{number:,}")
    if len(listed) > _MOST_VALUES:
        table.add_row(f"{len(listed) - _MOST_VALUES} more", f"{sum(n for _, n in listed[_MOST_VALUES:]):,}")
    return table
