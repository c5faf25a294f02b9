"""What a measurement ran on."""

import os
import platform

import torch

from sclm_hf.modeling.common.cpu import has_fast_bfloat16


def describe_machine() -> dict:
    """The processor, what it can, and how busy it is."""
    return {
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.machine()),
        "fast_bfloat16": has_fast_bfloat16(),
        "load_before": os.getloadavg()[0],
    }
