"""Faults against the real process: kills, power cuts, damaged and full disks, hoarders of memory."""
