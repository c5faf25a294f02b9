"""The `sclm-hf` command: one file per verb; each verb imports what it needs only when it runs."""

import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import SclmError
from ..tasks import verb_names
from .align import align
from .app import app as app_verb
from .card import card
from .chat import chat
from .convert import convert
from .corpus import corpus
from .doctor import doctor
from .estimate import estimate
from .experiment import experiment
from .export import export
from .finetune import finetune
from .fit import fit
from .gene_embeddings import gene_embeddings
from .merge import merge
from .models import models
from .pretrain import pretrain
from .push import push
from .skill import skill


@contextmanager
def _stopped_in_good_order() -> Iterator[None]:
    """After Ctrl-C or SIGTERM, clear away what is half written, and say in one line how to resume.

    Raises:
        typer.Exit: one of them came; the code is that of a shell, 128 and the signal's number.
    """
    received = [signal.SIGINT]

    def stop(number: int, frame: FrameType | None) -> None:
        received[0] = signal.Signals(number)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        typer.secho(
            f"Stopped by {received[0].name}; nothing half written is left. Repeat the command to go on, training with "
            "`--resume_from_checkpoint last`.",
            fg="red",
            err=True,
        )
        raise typer.Exit(128 + received[0]) from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


class _Verbs(TyperGroup):
    """Shows our own errors as one message; anything else is a bug and keeps its traceback."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if given.get("rich_markup_mode") == "rich":
            _keep_brackets(self)

    def invoke(self, ctx):
        try:
            with _stopped_in_good_order():
                return super().invoke(ctx)
        except SclmError as error:
            typer.secho(f"Error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error


def _keep_brackets(command: Any) -> None:
    """Have the help of a command and of those below it shown as written: rich takes `[extra]` for a style."""
    from rich.markup import escape

    for one in (command, *command.params):
        if getattr(one, "help", None):
            one.help = escape(one.help)
    for below in getattr(command, "commands", {}).values():
        _keep_brackets(below)


def make_app() -> typer.Typer:
    """The command, with one of its own for each verb."""
    app = typer.Typer(
        cls=_Verbs,
        callback=_about,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
    )
    verbs = [getattr(importlib.import_module(f".{name}", __package__), name) for name in verb_names()]
    panels = {
        "Look first": [models, doctor, estimate],
        "Ask about cells": sorted([*verbs, gene_embeddings, chat], key=lambda verb: verb.__name__),
        "Train and share models": [convert, fit, card, push],
        "More": [app_verb, merge, skill, experiment],
    }
    for panel, commands in panels.items():
        for command in commands:
            app.command(rich_help_panel=panel)(command)
    for verb in (finetune, pretrain, align):
        # their flags are the fields of the settings' dataclasses
        settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        app.command(context_settings=settings, rich_help_panel="Train and share models")(verb)
    app.add_typer(corpus, name="corpus", rich_help_panel="Train and share models")
    app.add_typer(export, name="export", rich_help_panel="Train and share models")
    return app


def _about() -> None:
    """Single-cell language models: convert, embed, annotate, train, push.

    To begin: `sclm-hf embed cells.h5ad embedded.h5ad --model MODEL`; MODEL is a folder or a repository of the Hub.

    No weights yet? `sclm-hf models FAMILY` says where they are; a small scGPT for immune cells lies in the repository
    of the package, in `model_cards/checkpoints/scgpt-blood-small`.
    """


app = make_app()

if __name__ == "__main__":
    app()
