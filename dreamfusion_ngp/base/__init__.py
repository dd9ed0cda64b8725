"""What every other room stands on: errors, files, streams, devices, random numbers, the native module."""
