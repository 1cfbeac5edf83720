"""Keyphrase retrieval for advertisers: an LLM judge teaches a cross-encoder assistant, which teaches a bi-encoder student."""
