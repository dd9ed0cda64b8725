"""What pulls a rendering towards its text."""
