"""The `sclm-hf` command: one file a verb; each verb imports what it needs only when it runs."""

import typer
from typer.core import TyperGroup

from ..errors import SclmError
from .annotate import annotate
from .card import card
from .convert import convert
from .corpus import corpus
from .embed import embed
from .finetune import finetune
from .models import models
from .perturb import perturb
from .pretrain import pretrain
from .push import push


class _Verbs(TyperGroup):
    """Shows our own errors as one message; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except SclmError as error:
            typer.secho(f"Error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Verbs,
    help="Single-cell language models: convert, embed, annotate, train, push.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for verb in (annotate, card, convert, embed, models, perturb, push):
    app.command()(verb)
for verb in (finetune, pretrain):
    # their flags are the fields of the settings' dataclasses, which transformers' HfArgumentParser reads
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=settings)(verb)
app.add_typer(corpus, name="corpus")


@app.callback()
def main() -> None:
    """Single-cell language models: convert, embed, annotate, train, push."""


if __name__ == "__main__":
    app()
