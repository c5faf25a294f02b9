"""What clusters of cells need: a sweep over resolutions, and marker genes."""
