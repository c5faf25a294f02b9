"""`sclm-hf push FOLDER REPO_ID`."""

from pathlib import Path
from typing import Annotated

import typer


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a model, an adapter or dataset shards, with README.md.")],
    repo_id: Annotated[str, typer.Argument(help="Repository, for example `me/my-model`; created if there is none.")],
    repo_type: Annotated[str, typer.Option(help="`model` or `dataset`.")] = "model",
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository; your account's default else.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, created if there is none.")] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commit.")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    with_code: Annotated[
        bool,
        typer.Option("--with-code", help="Add the code that opens the model where this package is not."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Push weights that may not be hosted again.")] = False,
) -> None:
    """Push FOLDER to the Hugging Face Hub in one commit; log in with `hf auth login`, or set HF_TOKEN."""
    from ..hub.push import push_to_hub

    commit = push_to_hub(
        folder,
        repo_id,
        repo_type=repo_type,
        private=private,
        revision=revision,
        commit_message=message,
        create_pr=pull_request,
        with_code=with_code,
        force=force,
    )
    typer.echo(f"Pushed {folder}: {commit.pr_url or commit.commit_url}")
