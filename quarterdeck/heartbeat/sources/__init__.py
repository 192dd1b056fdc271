"""The places where work waits, each behind the one protocol of `heartbeat.work`."""
