"""The `sclm-hf` command: one file a verb; each verb imports what it needs only when it runs."""

import typer

from .convert import convert

app = typer.Typer(
    help="Single-cell language models: convert, embed, annotate, train, push.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.command()(convert)


@app.callback()
def main() -> None:
    """Single-cell language models: convert, embed, annotate, train, push."""
