"""The input of a run: its settings, presets, and the words of its prompt."""
