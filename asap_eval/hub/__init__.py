"""Hugging Face's hub: its files, and what its errors mean."""
