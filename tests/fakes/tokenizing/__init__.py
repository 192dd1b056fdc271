"""Put on the path, this folder has a LiteLLM that only counts."""
