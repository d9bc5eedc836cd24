"""What is seen of a run while it goes on: how far it is, both risks, what reading costs, probes, a trace, new data."""
