"""Keyphrase retrieval for advertisers: an LLM judge teaches an assistant, which teaches a bi-encoder student."""
