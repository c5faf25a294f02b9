"""`sclm-hf perturb INPUT OUTPUT --model DIR`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import BatchSize, Device, Dtype, Layer, Model, Overwrite, Revision, Seed, Species


def perturb(
    input: Annotated[Path, typer.Argument(help="`.h5ad` file with raw counts.")],
    output: Annotated[Path, typer.Argument(help="`.h5ad` file to write: cells and perturbations.")],
    model: Model,
    gene: Annotated[
        list[str] | None, typer.Option(help="Gene to perturb; repeat it. All that a cell has unless given.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Genes to perturb together, `NAME=GENE,GENE,…`; repeat it.")
    ] = None,
    mode: Annotated[str, typer.Option(help="`delete` or `overexpress`.")] = "delete",
    combine: Annotated[int, typer.Option(min=1, help="Perturb all combinations of so many of the genes.")] = 1,
    anchor: Annotated[str | None, typer.Option(help="Gene that is perturbed together with each.")] = None,
    state_key: Annotated[str | None, typer.Option(help="Column of obs with cell states.")] = None,
    start_state: Annotated[str | None, typer.Option(help="Perturb cells of this state.")] = None,
    goal_state: Annotated[str | None, typer.Option(help="State that they should move to.")] = None,
    other_state: Annotated[list[str] | None, typer.Option(help="State to measure against too; repeat it.")] = None,
    donor_key: Annotated[
        str | None, typer.Option(help="Column of obs with donors: tests take the mean of each for one value.")
    ] = None,
    similarity: Annotated[
        str | None, typer.Option(help="`genes` or `cell`; as published for the model unless given.")
    ] = None,
    gene_effects: Annotated[bool, typer.Option("--gene-effects", help="Add the effects on single genes.")] = False,
    max_cells: Annotated[int | None, typer.Option(min=1, help="Take so many of the cells.")] = None,
    layer: Layer = None,
    species: Species = "human",
    batch_size: BatchSize = 64,
    device: Device = None,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    revision: Revision = None,
    overwrite: Overwrite = False,
) -> None:
    """Delete or over-express genes in silico; write how far that moves each cell of an .h5ad file."""
    from ..files import sole_writer
    from ..tasks.files.h5ad import check_output, read_h5ad, write_h5ad
    from ..tasks.perturb import perturb as run
    from .results import print_results

    genes = _genes(gene or [], group or [])
    states = _states(state_key, start_state, goal_state, other_state or [])
    check_output(output, source=input, overwrite=overwrite)
    with sole_writer(output):
        result = run(
            read_h5ad(input),
            model,
            genes=genes,
            mode=mode,
            combine=combine,
            anchor=anchor,
            states=states,
            donor_key=donor_key,
            similarity=similarity,
            gene_effects=gene_effects,
            max_cells=max_cells,
            layer=layer,
            species=species,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            seed=seed,
            revision=revision,
        )
        write_h5ad(result, output)
    print_results(output, "perturb")
    by = "similarity" if states is None else f"shift_{states.goal}"
    strongest = result.var.sort_values(by, ascending=states is None).head(10)
    typer.echo(strongest.drop(columns="genes").to_string(float_format="%.4g"))
    if states is not None and (n_untested := int(result.var["p_value"].isna().sum())):
        needs = result.uns["sclm_hf"]["perturb"]["test"]["needs"]
        typer.echo(f"{n_untested:,} of {result.n_vars:,} perturbations have no p value: it takes {needs}.")


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
