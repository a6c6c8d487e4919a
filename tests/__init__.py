"""The tests, and what they share under tests.support."""
