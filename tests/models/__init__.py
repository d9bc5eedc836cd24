"""The models of whole runs, where they are used: in environments of their own. For minutes; `make models`."""
