"""Where the workers' contributions meet: one contract, and one file for each way of meeting."""
