"""A data set looked at: its card, what readers would take differently, and whether its order is random."""
