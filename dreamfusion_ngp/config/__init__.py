"""What a run is asked for: its settings, presets, and the words of its prompt."""
