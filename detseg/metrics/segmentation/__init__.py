"""Segmentation metrics: mean IoU and its relatives, boundary IoU."""
