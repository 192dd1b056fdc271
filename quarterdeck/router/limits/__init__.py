"""Which backend takes a call, and when: limits per minute, cooldowns, health, the line of those who wait."""
