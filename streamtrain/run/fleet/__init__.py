"""The workers and streamers of a run: what they do, where Ray puts them, and what happens when one is lost."""
