"""The composition root: catalogue, command line, web, desk, runner, supervisor, and what is shipped."""
