"""What is told of a run while it trains: TensorBoard, MLflow, Weights & Biases, and callbacks of your own."""
