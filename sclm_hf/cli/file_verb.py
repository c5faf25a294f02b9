"""Commands of the verbs that add results to files."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..tasks import get_verb
from .options import Input, Json, Model, Output, Overwrite, ShardOption, read_by, refuse_missing, with_settings
from .pictures import Picture


def file_verb(
    show: Callable[[dict[str, Any], Any], None] | None = None, *, picture: Picture | None = None
) -> Callable:
    """The command of a verb.

    Args:
        show: has the name of the verb, and the help of the command as its docstring; prints what is particular about a
            file: the record in `uns["sclm_hf"]`, and the column of `obs` that is named like it, or None.
        picture: what `--plot` draws; None = the command has none.
    """
    if show is None:
        return lambda shown: file_verb(shown, picture=picture)
    name = show.__name__
    verb = get_verb(name)

    def run(
        input: Input,
        output: Output,
        model: Model,
        as_json: Json = False,
        *,
        plot: Path | None = None,
        overwrite: Overwrite = False,
        **settings: Any,
    ) -> None:
        refuse_missing(input)
        from ..tasks.files.file_to_file import run_files
        from .results import print_files

        def write() -> Any:
            return run_files(name, input, output, model, overwrite=overwrite, **settings)

        if plot is not None:
            read = [input, *read_by(verb.settings, settings)]
            write = picture.drawn(write, plot, settings, output=output, read=read, overwrite=overwrite)
        print_files(write, show, as_json=as_json)

    def run_shard(
        input: Input,
        output: Output,
        model: Model,
        as_json: Json = False,
        *,
        plot: Path | None = None,
        overwrite: Overwrite = False,
        shard: ShardOption = None,
        **settings: Any,
    ) -> None:
        run(input, output, model, as_json, plot=plot, overwrite=overwrite, shard=shard, **settings)

    command = run_shard if verb.by_shards else run
    command.__signature__ = _with_plot(inspect.signature(command), picture)
    command = with_settings(verb.settings)(command)
    command.__name__ = name
    command.__doc__ = f"{show.__doc__}\n\nA run that was stopped goes on where it was when it is repeated."
    return command


def _with_plot(signature: inspect.Signature, picture: Picture | None) -> inspect.Signature:
    """A signature whose `plot` is the option of a picture, without it where there is none."""
    parameters = dict(signature.parameters)
    plot = parameters.pop("plot")
    if picture is None:
        return signature.replace(parameters=list(parameters.values()))
    parameters = signature.parameters | {"plot": plot.replace(annotation=picture.option)}
    return signature.replace(parameters=list(parameters.values()))
