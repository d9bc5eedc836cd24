"""What is done with a run that is there: its model measured on any data set, and used on it."""
