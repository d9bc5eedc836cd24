"""A data set for loops of the user's own, without jobs, Ray or MLflow: examples, minibatches, WebDataset's samples."""
