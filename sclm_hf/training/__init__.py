"""Training: one loop on Accelerate for every objective, checkpoints that survive a kill, and the recipes' settings."""
