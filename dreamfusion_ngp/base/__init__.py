"""What every other folder builds on: errors, files, streams, devices, random numbers, the native module."""
