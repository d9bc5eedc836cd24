"""Raw data to shards: scattered to sorted runs on disk, gathered into shards in stored order."""
