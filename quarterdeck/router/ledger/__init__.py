"""What was used and what it cost: written in batches behind the calls, read as statistics."""
