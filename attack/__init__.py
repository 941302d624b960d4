"""Campaigns against xbc with inputs that nobody vouches for; ``make attack`` runs them all for minutes."""
