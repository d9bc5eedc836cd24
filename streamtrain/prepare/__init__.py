"""Before anything starts: the job file loaded, the plan made, all refused that can be refused without Ray."""
