"""The command line: flags out of the typed declarations, and a file for each family of commands."""
