"""What is seen of a run while it goes on: how far it is, what reading costs, probes, a trace, data that grows."""
