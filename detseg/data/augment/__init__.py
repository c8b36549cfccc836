"""Random transforms of training images and what training, validation and prediction share of them."""
