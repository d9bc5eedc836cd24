"""Out of core: ranges of the source to sorted runs on disk, and any range of the stored order out of them."""
