"""Machine: the threads, processes and devices of this computer; it knows of no ensemble."""
