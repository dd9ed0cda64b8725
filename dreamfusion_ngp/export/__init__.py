"""From a field to files: meshes, textures, videos."""
