"""What tests share: real servers, a proxy that injects faults, and the decoding rules of consumers."""
