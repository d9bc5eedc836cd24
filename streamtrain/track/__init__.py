"""Where numbers go: the journal on disk, MLflow, figures, the terminal. Never in training's way."""
