"""Raw data to shards: shuffled, encoded, written."""
