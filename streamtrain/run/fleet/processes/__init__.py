"""What runs in the processes of a run: plain classes, which `fleet.recruiting` makes actors."""
