"""The door of model calls: who asks, the life of a request, what the client gets, what is written of it."""
