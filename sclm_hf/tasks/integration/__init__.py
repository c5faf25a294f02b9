"""What `integrate` needs beyond a run over cells."""
