"""The composition root: catalogue, command line, processes, supervisor, and what is shipped."""
