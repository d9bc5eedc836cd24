"""What `tests.benchmarks.jobs` compares, a file a subject: contenders by name, each returns its number of examples."""
