"""The term in other people's training loops, each module for one package that must be installed."""
