"""The survey's task-specific systems, each whole in its folder."""
