"""Meshes of other programs: read, examined, unwrapped where they must be, written back as they were."""
