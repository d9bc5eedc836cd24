"""What differs from machine to machine: devices, what chooses kernels, and kernels that all machines of a kind have."""
