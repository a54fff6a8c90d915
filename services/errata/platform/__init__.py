"""What all services share: settings, the status map, server and channel set-up, telemetry."""
