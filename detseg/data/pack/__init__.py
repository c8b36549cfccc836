"""Packed datasets: one HDF5 file, written by `detseg pack`, read batch by batch."""
