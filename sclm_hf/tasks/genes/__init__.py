"""What models say about genes."""
