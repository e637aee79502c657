"""Algonauts 2023: NSD as its challenge laid it out."""
