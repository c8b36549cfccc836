"""Classifiers as convolutional networks: `dense_to_conv` and the rules it rewrites a traced network by."""
