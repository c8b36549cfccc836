from detseg.metrics.detection.average_precision import FIGURES as FIGURES
