"""`streamtrain probe`: what the loss surface looks like around a run's parameters. Dear, and only on request."""
