"""MLflow as a place for numbers. Its server may be slow, broken or away: that costs training nothing."""

from streamtrain.track.mlflow.mlflow_tracker import MlflowTracker
from streamtrain.track.mlflow.uri import check_uri, create_database, database_of, default_uri

__all__ = ["MlflowTracker", "check_uri", "create_database", "database_of", "default_uri"]
