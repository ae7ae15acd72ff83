"""Integrations with other training loops; each module needs its package installed."""
