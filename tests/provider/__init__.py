"""Tests of the provider's wing."""
