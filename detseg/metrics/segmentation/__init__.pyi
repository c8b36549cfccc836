from detseg.metrics.segmentation.mean_iou import FIGURES as FIGURES
