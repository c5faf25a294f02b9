"""The LoRA that is trained instead of all weights."""

from dataclasses import dataclass, field
from typing import Any

from ..arguments import option


@dataclass(kw_only=True)
class LoraArguments:
    """The LoRA that is trained instead of all weights."""

    lora_r: int = option(8, "Rank of the LoRA.")
    lora_alpha: int = option(16, "The update of the LoRA is scaled by lora_alpha / lora_r.")
    lora_dropout: float = option(0.0, "Dropout on the input of the LoRA.")
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Layers to adapt; by default those of the family."}
    )

    @property
    def lora_settings(self) -> dict[str, Any]:
        """The settings as `adapters.lora.add_lora` takes them."""
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.lora_target_modules,
        }
