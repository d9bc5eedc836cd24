"""The exchange of any number of hosts: their group, what they send each other, and the meeting itself."""
