"""`sclm-hf perturb INPUT OUTPUT --model DIR`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..logging import counted
from ..tasks.perturb import PerturbSettings
from .options import Json, Model, Overwrite, with_settings


@with_settings(PerturbSettings)
def perturb(
    input: Annotated[Path, typer.Argument(help="File with raw counts: `.h5ad`, a zarr folder or Parquet shards.")],
    output: Annotated[Path, typer.Argument(help="`.h5ad` file to write: cells and perturbations.")],
    model: Model,
    gene: Annotated[
        list[str] | None, typer.Option(help="Gene to perturb; repeat it. All that a cell has unless given.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Genes to perturb together, `NAME=GENE,GENE,…`; repeat it.")
    ] = None,
    state_key: Annotated[str | None, typer.Option(help="Column of obs with cell states.")] = None,
    start_state: Annotated[str | None, typer.Option(help="Perturb cells of this state.")] = None,
    goal_state: Annotated[str | None, typer.Option(help="State that they should move to.")] = None,
    other_state: Annotated[list[str] | None, typer.Option(help="State to measure against too; repeat it.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="`.tsv` file to write too: the effects, sorted, those without a test last, in words."),
    ] = None,
    volcano: Annotated[
        Path | None, typer.Option(help="Image to write too: shifts to the goal against false discovery rates.")
    ] = None,
    as_json: Json = False,
    *,
    overwrite: Overwrite = False,
    **settings: Any,
) -> None:
    """Delete or over-express genes in silico; write how far that moves each cell of an .h5ad file.

    What is printed and `--table` have the strongest effects first, after them those without a test. `--json` prints
    one object, with all of them as the list `effects`.

    A run that was stopped goes on where it was when it is repeated.
    """
    from ..evaluation.plots import plot_volcano
    from ..evaluation.plots.drawing import save_figure
    from ..files import written_whole
    from ..tasks.files.file_to_file import run_files
    from ..tasks.files.h5ad import read_h5ad
    from ..tasks.perturbation.effects import effect_table
    from ..tasks.perturbation.table import shift_name
    from .results import print_files

    genes = _genes(gene or [], group or [])
    states = _states(state_key, start_state, goal_state, other_state or [])
    _check_files(table, volcano, states, [input, output], overwrite)
    print_files(
        lambda: run_files(
            "perturb", input, output, model, overwrite=overwrite, genes=genes, states=states, **settings
        ),
        lambda record, column: None,
        as_json=as_json,
        more=_effects,
    )
    result = read_h5ad(output)
    effects = effect_table(result)
    if not as_json:
        typer.echo(effects.head(10).drop(columns="genes").to_string(index=False, float_format="%.4g"))
    if table is not None:
        with written_whole(table) as unfinished:
            effects.to_csv(unfinished, sep="\t", index=False)
    if volcano is not None:
        by = shift_name(states.goal)
        axes = plot_volcano(
            result.var[by], result.var["fdr"], result.var_names, xlabel=f"shift to {states.goal} (cosine)"
        )
        save_figure(axes.figure, volcano)
    if not as_json and states is not None and (n_untested := int(result.var["p_value"].isna().sum())):
        needs = result.uns["sclm_hf"]["perturb"]["test"]["needs"]
        have = "has" if n_untested == 1 else "have"
        typer.echo(f"{n_untested:,} of {counted(result.n_vars, 'perturbation')} {have} no p value: it takes {needs}.")


def _effects(output: Path) -> dict[str, Any]:
    """For JSON: the perturbations in the order of the table; null for what was not tested."""
    from ..tasks.files.h5ad import read_h5ad
    from ..tasks.perturbation.effects import sorted_effects

    return {"effects": json.loads(sorted_effects(read_h5ad(output)).to_json(orient="records"))}


def _check_files(table: Path | None, volcano: Path | None, states: Any, others: list[Path], overwrite: bool) -> None:
    from ..errors import ConfigurationError
    from ..evaluation.plots.drawing import check_image
    from .results import check_written

    if volcano is not None:
        check_image(volcano)
    if volcano is not None and states is None:
        raise ConfigurationError("`--volcano` draws shifts towards a state: give `--state-key`, `--goal-state`, ….")
    check_written(table, volcano, read=others, overwrite=overwrite)


def _genes(genes: list[str], groups: list[str]):
    """What `perturb` takes: `"all"`, names, or groups of names."""
    from ..errors import ConfigurationError

    if genes and groups:
        raise ConfigurationError("`--gene` and `--group` exclude one another.")
    if not groups:
        return genes or "all"
    named = [group.partition("=") for group in groups]
    if unsound := [group for group, (name, _, members) in zip(groups, named, strict=True) if not (name and members)]:
        raise ConfigurationError(f"A group is written NAME=GENE,GENE, got {unsound[0]!r}.")
    return {name: [gene.strip() for gene in members.split(",")] for name, _, members in named}


def _states(key: str | None, start: str | None, goal: str | None, others: list[str]):
    from ..errors import ConfigurationError
    from ..tasks.perturb import States

    given = {"--state-key": key, "--start-state": start, "--goal-state": goal}
    if not any([*given.values(), others]):
        return None
    if absent := [name for name, value in given.items() if value is None]:
        raise ConfigurationError(f"For shifts between states give {', '.join(absent)} too.")
    return States(key, start, goal, tuple(others))
