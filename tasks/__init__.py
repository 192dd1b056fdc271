"""The steps of the stories: one retryable, time-limited action each."""
