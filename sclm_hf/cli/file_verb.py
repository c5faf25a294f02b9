"""Commands of the verbs that add results to files."""

from collections.abc import Callable
from typing import Any

from ..tasks import get_verb
from .options import Input, Json, Model, Output, Overwrite, ShardOption, refuse_missing, with_settings


def file_verb(show: Callable[[dict[str, Any], Any], None]) -> Callable:
    """The command of a verb.

    Args:
        show: has the name of the verb, and the help of the command as its docstring; prints what is particular about a
            file: the record in `uns["sclm_hf"]`, and the column of `obs` that is named like it, or None.
    """
    name = show.__name__
    verb = get_verb(name)

    def run(
        input: Input,
        output: Output,
        model: Model,
        as_json: Json = False,
        *,
        overwrite: Overwrite = False,
        **settings: Any,
    ) -> None:
        refuse_missing(input)
        from ..tasks.files.file_to_file import run_files
        from .results import print_files

        print_files(
            lambda: run_files(name, input, output, model, overwrite=overwrite, **settings), show, as_json=as_json
        )

    def run_shard(
        input: Input,
        output: Output,
        model: Model,
        as_json: Json = False,
        *,
        overwrite: Overwrite = False,
        shard: ShardOption = None,
        **settings: Any,
    ) -> None:
        run(input, output, model, as_json, overwrite=overwrite, shard=shard, **settings)

    command = with_settings(verb.settings)(run_shard if verb.by_shards else run)
    command.__name__ = name
    command.__doc__ = f"{show.__doc__}\n\nA run that was stopped goes on where it was when it is repeated."
    return command
