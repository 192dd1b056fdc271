"""What is done from time to time, and what is measured."""
