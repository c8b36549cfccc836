"""Embedded images: annotated flower scenes drawn from a seed."""
