"""The folder that a run leaves behind, and everything that keeps it whole."""
