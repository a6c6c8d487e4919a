"""The promise that nothing is lost, whatever is killed, and at most a bound of it sent twice."""
