"""Meshes of other programs: read, examined, unwrapped where needed, written back with everything else unchanged."""
