"""The admin API: what people and programs may see and change."""
