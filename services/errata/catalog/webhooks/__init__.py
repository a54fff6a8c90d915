"""Webhooks: events sent to other people's servers."""
