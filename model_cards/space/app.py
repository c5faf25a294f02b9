"""The demo as a Space of the Hugging Face Hub; `sclm-hf app` starts the same page on your own machine."""

import os
from pathlib import Path

from sclm_hf.app.page import launch
from sclm_hf.app.settings import AppSettings

CHECKPOINT = Path(__file__).parent / "scgpt-blood-small"
"""A copy beside this file; in the repository of `sclm_hf` the settings find it themselves."""

if __name__ == "__main__":
    named = os.environ.get("SCLM_MODEL", str(CHECKPOINT) if CHECKPOINT.is_dir() else "")
    settings = AppSettings(models=tuple(named.split()), text_model=os.environ.get("SCLM_TEXT_MODEL") or None)
    launch(settings, host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"))
