"""Which class an image is of: a head on pooled features, and how to give it trained ones."""

from detseg.classify.classifier import Classifier
from detseg.classify.similarity import Similarity, measure_similarity
from detseg.classify.softmax_regression import SoftmaxRegression, fit_softmax_regression

__all__ = ["Classifier", "Similarity", "SoftmaxRegression", "fit_softmax_regression", "measure_similarity"]
