"""Confidence intervals and paired comparisons by resampling the images (the bootstrap, Efron 1979)."""
