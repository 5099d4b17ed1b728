"""vLLM: a client for its servers, a server of one's own, and the offline engine."""
