"""Adapters: PEFT with the defaults of each family, and the door to adapters that were saved."""
