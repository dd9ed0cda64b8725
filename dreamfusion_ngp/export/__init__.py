"""Writes a scene to files: meshes, textures, videos."""
