"""Problems of a dataset: found, reported with file, item and remedy, and repaired where that is safe."""
