"""Ray as a cluster: starting it, what of its insides is used, where a run has room, jobs submitted to one."""
