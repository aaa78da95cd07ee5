"""Environments as 64x64 pixels: simulators, tasks by name, action repeat and time limit."""
