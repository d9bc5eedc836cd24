"""What a finished run leaves: its result, its table and figures, its description in MLflow."""
