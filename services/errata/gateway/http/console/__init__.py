"""The console: pages for people, rendered here, about what the other services tell."""
