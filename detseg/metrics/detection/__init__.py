"""Detection metrics: COCO and VOC average precision, error analysis, confusion matrix."""
