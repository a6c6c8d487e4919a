"""Deliveries: finding and verifying their files, and reading their rows."""
