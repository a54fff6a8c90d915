"""The edit log: one totally ordered, chained, durable sequence of entries on Redis."""
