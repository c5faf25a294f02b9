"""From rows of files to batches of tensors: windows read, encoded, padded, handed over by workers."""
