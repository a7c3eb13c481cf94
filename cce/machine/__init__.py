"""Machine: the threads, processes, locks, files and GPU graphs of this computer.

May be imported by: kernels, models and what follows, the app. Must not go in: anything that knows of an image, a
network or a run.
"""
