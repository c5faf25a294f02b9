"""Whether batches mix in an embedding, and whether cell types stay apart in it."""
