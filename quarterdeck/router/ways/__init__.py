"""How backends are reached: bytes passed on in OpenAI's dialect, or LiteLLM's translation for all others."""
